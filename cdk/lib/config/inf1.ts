/** The inf1 sizes, as https://aws.amazon.com/ec2/instance-types/inf1/ lists them. */

/** What one size brings. */
export interface Inf1 {
  /** Inferentia chips; chip i is the device /dev/neuron<i>. */
  readonly chips: number;
  readonly vcpus: number;
  readonly memoryMib: number;
}

/** NeuronCores of one Inferentia chip. */
export const CORES_PER_CHIP = 4;

export const INF1 = {
  'inf1.xlarge': { chips: 1, vcpus: 4, memoryMib: 8 * 1024 },
  'inf1.2xlarge': { chips: 1, vcpus: 8, memoryMib: 16 * 1024 },
  'inf1.6xlarge': { chips: 4, vcpus: 24, memoryMib: 48 * 1024 },
  'inf1.24xlarge': { chips: 16, vcpus: 96, memoryMib: 192 * 1024 },
} as const satisfies Record<string, Inf1>;

export type Inf1Size = keyof typeof INF1;

export const INF1_SIZES = Object.keys(INF1) as [Inf1Size, ...Inf1Size[]];

/** Sizes with one chip, which ECS can hand to a task by its one device. */
export const ONE_CHIP_SIZES = INF1_SIZES.filter((size) => INF1[size].chips === 1) as [Inf1Size, ...Inf1Size[]];
