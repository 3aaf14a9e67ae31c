// Node's own cluster primary, run as one would run croupier, to compare the two. Workers execute SCRIPT; whoever ends
// is replaced; SIGHUP replaces one after the other; SIGTERM ends. What it logs of workers has the form of croupier's
// lines.
// Usage: node primary.js WORKERS round-robin|shared SCRIPT
'use strict';
const cluster = require('cluster');
const { once } = require('events');

const [workerCount, policy, exec] = process.argv.slice(2);
cluster.schedulingPolicy = policy === 'shared' ? cluster.SCHED_NONE : cluster.SCHED_RR;
(cluster.setupPrimary || cluster.setupMaster)({ exec });

const leaving = new Set(); // ids of workers that nobody replaces when they end
const log = (worker, what) => console.error(`worker=${worker.id} pid=${worker.process.pid} ${what}`);

cluster.on('listening', (worker, { address, port }) => log(worker, `listening on ${address}:${port}`));
cluster.on('exit', (worker) => {
  log(worker, 'exited');
  if (!leaving.delete(worker.id)) cluster.fork();
});

process.on('SIGHUP', async () => {
  for (const old of Object.values(cluster.workers)) {
    await once(cluster.fork(), 'listening');
    leaving.add(old.id);
    old.disconnect();
    await once(old, 'exit');
  }
  console.error('reload done');
});
process.on('SIGTERM', () => {
  for (const id in cluster.workers) leaving.add(Number(id));
  cluster.disconnect(() => process.exit(0));
});

for (let i = 0; i < workerCount; i++) cluster.fork();
