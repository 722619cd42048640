/** Where things lie on a host, for units, scripts and tests alike. */

export const OPT = '/opt/catalog-labels';
/** Link to the release in use: bin/ and lib/. */
export const RELEASE = `${OPT}/current`;
/** Scripts of `cdk/host`. */
export const SCRIPTS = `${OPT}/host`;
/** Link to the model in use. */
export const MODEL = '/var/lib/catalog-labels/model';
export const ETC = '/etc/catalog-labels';
/** Made by install.sh or user data: systemd opens a unit's log before it would make the folder. */
export const LOGS = '/var/log/catalog-labels';
/** JSON lines of the worker on a chip. */
export const workerLog = (chip: number) => `${LOGS}/worker-${chip}.log`;
/** What scripts and neuron-monitor say; install.sh has another. */
export const HOST_LOG = `${LOGS}/host.log`;
/** What user data says, and install.sh with it: cloud-init's own file. */
export const INSTALL_LOG = '/var/log/cloud-init-output.log';

/** Health, readiness and metrics of the worker on chip 0; chip i has this plus i. */
export const WORKER_PORT = 9090;
/** neuron-monitor-prometheus.py. */
export const NEURON_MONITOR_PORT = 9190;
/** The online service. */
export const INTENT_PORT = 8080;

export const NEURON_MONITOR_UNIT = 'catalog-labels-neuron-monitor.service';
export const UNHEALTHY_UNIT = 'catalog-labels-unhealthy.service';
export const workerUnit = (chip: number) => `catalog-labels-worker-${chip}.service`;

/** Lifecycle hooks of the fleet: the first is answered by install.sh, the second by drain.sh. */
export const LAUNCH_HOOK = 'install';
export const DRAIN_HOOK = 'drain';
