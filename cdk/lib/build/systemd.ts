/** The systemd units of a host, generated for each inf1 size. */

import { CORES_PER_CHIP, INF1, type Inf1Size } from '../config/inf1.ts';
import {
  ETC,
  HOST_LOG,
  MODEL,
  NEURON_MONITOR_PORT,
  NEURON_MONITOR_UNIT,
  RELEASE,
  SCRIPTS,
  UNHEALTHY_UNIT,
  WORKER_PORT,
  workerLog,
  workerUnit,
} from './paths.ts';

/** Kept for the kernel, the agent and the host's scripts. */
const HOST_MEMORY_MIB = 1_536;
/** Beyond the drain limit: the last requests, and the exit. */
const STOP_MARGIN_SECONDS = 30;
/** A worker that fails this often in ten minutes stays down, and its instance is replaced. */
const STARTS_IN_TEN_MINUTES = 5;

/** Sections and their lines; a value that is a list gives a line for each. */
type Unit = Record<string, Record<string, string | number | readonly string[]>>;

function render(unit: Unit): string {
  const sections = Object.entries(unit).map(([section, values]) => {
    const lines = Object.entries(values).flatMap(([name, value]) => [value].flat().map((line) => `${name}=${line}`));
    return [`[${section}]`, ...lines].join('\n');
  });
  return `${sections.join('\n\n')}\n`;
}

/**
 * What nothing here needs is taken away. MemoryDenyWriteExecute is left out for the worker:
 * oneDNN and the TorchScript executor write machine code at run time.
 */
const HARDENING = {
  NoNewPrivileges: 'yes',
  CapabilityBoundingSet: '',
  AmbientCapabilities: '',
  ProtectSystem: 'strict',
  ProtectHome: 'yes',
  PrivateTmp: 'yes',
  PrivateUsers: 'yes',
  ProtectKernelTunables: 'yes',
  ProtectKernelModules: 'yes',
  ProtectKernelLogs: 'yes',
  ProtectControlGroups: 'yes',
  ProtectClock: 'yes',
  ProtectHostname: 'yes',
  ProtectProc: 'invisible',
  RestrictAddressFamilies: 'AF_INET AF_INET6 AF_UNIX AF_NETLINK',
  RestrictNamespaces: 'yes',
  RestrictRealtime: 'yes',
  RestrictSUIDSGID: 'yes',
  LockPersonality: 'yes',
  RemoveIPC: 'yes',
  SystemCallArchitectures: 'native',
  SystemCallFilter: ['@system-service', '~@privileged'],
  SystemCallErrorNumber: 'EPERM',
  DevicePolicy: 'closed',
  UMask: '0077',
} as const;

/** The cores of chip `chip` in the form of NEURON_RT_VISIBLE_CORES. */
export function visibleCores(chip: number): string {
  return `${chip * CORES_PER_CHIP}-${(chip + 1) * CORES_PER_CHIP - 1}`;
}

/** Memory of one worker in MiB: the chips share what the host leaves. */
export function workerMemoryMib(size: Inf1Size): number {
  const { memoryMib, chips } = INF1[size];
  return Math.floor((memoryMib - HOST_MEMORY_MIB) / chips);
}

/** The share of the vCPUs of the worker on a chip. */
function cpus(size: Inf1Size, chip: number): string {
  const share = INF1[size].vcpus / INF1[size].chips;
  return `${chip * share}-${(chip + 1) * share - 1}`;
}

/** One process for each chip: a device that fails costs four cores. */
function worker(size: Inf1Size, chip: number, drainSeconds: number): string {
  const memoryMib = workerMemoryMib(size);
  return render({
    Unit: {
      Description: `catalog-labels worker on chip ${chip} of an ${size} (NeuronCores ${visibleCores(chip)})`,
      Wants: 'network-online.target',
      After: 'network-online.target',
      PartOf: 'catalog-labels.target',
      StartLimitIntervalSec: 600,
      StartLimitBurst: STARTS_IN_TEN_MINUTES,
      OnFailure: UNHEALTHY_UNIT,
    },
    Service: {
      Type: 'exec',
      User: 'catalog-labels',
      Group: 'catalog-labels',
      EnvironmentFile: `${ETC}/worker.env`,
      Environment: [
        `LD_LIBRARY_PATH=${RELEASE}/lib`,
        `NEURON_RT_VISIBLE_CORES=${visibleCores(chip)}`,
        'NEURON_RT_LOG_LOCATION=console',
        'NEURON_RT_LOG_LEVEL=WARN',
        `CATALOG_LABELS_ARTIFACT=${MODEL}`,
        `CATALOG_LABELS_REPLICAS=${CORES_PER_CHIP}`,
        `CATALOG_LABELS_HEALTH_ADDRESS=127.0.0.1:${WORKER_PORT + chip}`,
      ],
      ExecStartPre: `${RELEASE}/bin/catalog-labels check --config-only`,
      ExecStart: `${RELEASE}/bin/catalog-labels worker`,
      LogsDirectory: 'catalog-labels',
      StandardOutput: `append:${workerLog(chip)}`,
      StandardError: `append:${workerLog(chip)}`,
      // The worker finishes or releases what it holds; only then it may be killed.
      KillSignal: 'SIGTERM',
      TimeoutStopSec: drainSeconds + STOP_MARGIN_SECONDS,
      Restart: 'on-failure',
      RestartSec: 10,
      MemoryHigh: `${Math.floor(memoryMib * 0.9)}M`,
      MemoryMax: `${memoryMib}M`,
      // Its share of the cores; with it, threads that count cores count these.
      CPUAffinity: cpus(size, chip),
      TasksMax: 512,
      LimitNOFILE: 65_536,
      ...HARDENING,
      // The chip, and nothing else of /dev but the usual pseudo-devices.
      DeviceAllow: `/dev/neuron${chip} rw`,
    },
    Install: { WantedBy: 'catalog-labels.target' },
  });
}

function target(chips: number): string {
  return render({
    Unit: {
      Description: 'catalog-labels: one worker for each chip',
      Wants: Array.from({ length: chips }, (_, chip) => workerUnit(chip)),
    },
    Install: { WantedBy: 'multi-user.target' },
  });
}

/** neuron-monitor's JSON, turned into Prometheus text by the script that comes with it; runs while `target` does. */
function neuronMonitor(target: string): string {
  const tools = '/opt/aws/neuron/bin';
  const pipe = `${tools}/neuron-monitor -c ${ETC}/neuron-monitor.json | ${tools}/neuron-monitor-prometheus.py --port ${NEURON_MONITOR_PORT}`;
  return render({
    Unit: { Description: 'Neuron device metrics for Prometheus', PartOf: target },
    Service: {
      Type: 'exec',
      User: 'catalog-labels',
      Group: 'catalog-labels',
      ExecStart: `/bin/bash -o pipefail -c '${pipe}'`,
      StandardOutput: `append:${HOST_LOG}`,
      StandardError: `append:${HOST_LOG}`,
      Restart: 'always',
      RestartSec: 10,
      MemoryMax: '256M',
      ...HARDENING,
      // It looks at the processes that use the devices.
      ProtectProc: 'default',
      DeviceAllow: 'char-neuron rw',
    },
    Install: { WantedBy: target },
  });
}

/**
 * Scripts that restart workers run as root; nothing else of root's is left to them. One of them
 * starts the binary, so that MemoryDenyWriteExecute is left out here too.
 */
const SCRIPT = {
  StandardOutput: `append:${HOST_LOG}`,
  StandardError: `append:${HOST_LOG}`,
  ...HARDENING,
  PrivateUsers: 'no',
  PrivateDevices: 'yes',
  ReadWritePaths: '/var/lib/catalog-labels',
} as const;

/** A script of `cdk/host`, run once by a timer or by a unit that failed. */
function script(description: string, command: string, restart = 'no'): string {
  return render({
    Unit: { Description: description, Wants: 'network-online.target', After: 'network-online.target' },
    Service: {
      Type: 'oneshot',
      ExecStart: `${SCRIPTS}/${command}`,
      TimeoutStartSec: '3h',
      Restart: restart,
      RestartSec: 30,
      ...SCRIPT,
    },
  });
}

function timer(description: string, everySeconds: number, spreadSeconds: number): string {
  return render({
    Unit: { Description: description },
    Timer: {
      OnActiveSec: everySeconds,
      OnUnitInactiveSec: everySeconds,
      // Of itself a timer may be a minute late.
      AccuracySec: '1s',
      // So that a moved pointer does not restart the whole fleet at once.
      RandomizedDelaySec: spreadSeconds,
    },
    Install: { WantedBy: 'timers.target' },
  });
}

/** Waits for the notice that the instance goes, then for every worker's drain, and answers the hook. */
function drain(): string {
  return render({
    Unit: { Description: 'Answer the drain hook once every worker has drained', PartOf: 'catalog-labels.target' },
    Service: {
      Type: 'exec',
      ExecStart: `${SCRIPTS}/drain.sh`,
      Restart: 'on-failure',
      RestartSec: 10,
      ...SCRIPT,
    },
    Install: { WantedBy: 'catalog-labels.target' },
  });
}

/** Units of a host of the online service, by file name; ECS runs the service itself. */
export function intentUnits(): Record<string, string> {
  return { [NEURON_MONITOR_UNIT]: neuronMonitor('multi-user.target') };
}

/** Every unit of a worker host of this size, by file name. */
export function unitsOf(size: Inf1Size, drainSeconds: number): Record<string, string> {
  const { chips } = INF1[size];
  const workers = Array.from({ length: chips }, (_, chip) => [workerUnit(chip), worker(size, chip, drainSeconds)]);
  return {
    ...Object.fromEntries(workers),
    'catalog-labels.target': target(chips),
    'catalog-labels-drain.service': drain(),
    [NEURON_MONITOR_UNIT]: neuronMonitor('catalog-labels.target'),
    [UNHEALTHY_UNIT]: script('Have the instance replaced when a worker stays down', 'unhealthy.sh', 'on-failure'),
    'catalog-labels-model.service': script('Follow the model pointer', 'model.sh follow'),
    'catalog-labels-model.timer': timer('Follow the model pointer', 60, 300),
    'catalog-labels-protect.service': script(
      'Protect the instance from scale-in while it holds messages',
      'protect.sh',
    ),
    'catalog-labels-protect.timer': timer('Protect the instance from scale-in while it holds messages', 30, 0),
  };
}
