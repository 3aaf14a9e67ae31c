// A program that does what its script says: node script.js PLACE SCRIPT. Everything in it is plain Node; it says on
// stderr what has become of each line. `obey` tells what can be said.
'use strict';

const cluster = require('cluster');
const dgram = require('dgram');
const fs = require('fs');
const http = require('http');
const net = require('net');
const path = require('path');

const [place, script] = process.argv.slice(2);
const id = cluster.isWorker ? cluster.worker.id : 'none';
const open = new Map([['channel', process.channel]]); // by name: servers and sockets

function say(text) {
  fs.writeSync(2, `worker ${id}: ${text}\n`);
}

// What the test writes into a file of this name.
async function told(name) {
  const file = path.join(place, name);
  while (!fs.existsSync(file)) await new Promise((resolve) => setTimeout(resolve, 2));
  return fs.readFileSync(file, 'utf8');
}

// HOST:PORT, :PORT (every address), unix:PATH, fd:N, or @FILE: what the test writes there.
async function target(text, words) {
  if (text.startsWith('@')) text = await told(text.slice(1));
  const target = {};
  if (text.startsWith('unix:')) target.path = text.slice(5);
  else if (text.startsWith('fd:')) target.fd = Number(text.slice(3));
  else {
    const [, host, port] = /^\[?(.*?)\]?:(\d+)$/.exec(text);
    if (host) target.host = target.address = host;
    target.port = Number(port);
  }
  for (const word of words) {
    const [name, value = 'true'] = word.split('=');
    target[name] = JSON.parse(value);
  }
  return target;
}

function shown(address) {
  if (address === null || typeof address === 'string') return `unix:${address}`;
  return address.address.includes(':') ? `[${address.address}]:${address.port}` : `${address.address}:${address.port}`;
}

// Says what has become of it: when the primary knows, too.
async function bound(name, it, begin) {
  try {
    await new Promise((resolve, reject) => {
      it.once('listening', resolve).once('error', reject);
      begin();
    });
    open.set(name, it);
    say(`${name} is ${shown(it.address())}`);
  } catch (error) {
    say(`${name} failed ${error.code}: ${error.message}`);
  }
}

async function listen(name, server, address, words) {
  const { maxConnections, dropMaxConnection, ...options } = await target(address, words);
  if (maxConnections !== undefined) server.maxConnections = maxConnections;
  if (dropMaxConnection) server.dropMaxConnection = true;
  await bound(name, server, () => server.listen(options));
}

function udpSocket(name, { host, ipv6Only, reuseAddr, reusePort, unref }) {
  const socket = dgram.createSocket({ type: net.isIPv6(host) ? 'udp6' : 'udp4', ipv6Only, reuseAddr, reusePort });
  if (unref) socket.unref();
  return socket.on('message', (text, from) => socket.send(`${id} ${name} ${text}`, from.port, from.address));
}

function httpServer(name) {
  return http.createServer((request, response) => {
    const body = `${id} ${name}`;
    response.writeHead(200, { 'content-length': body.length, 'x-worker': id });
    response.end(body);
  });
}

// - listen NAME ADDRESS [OPTION[=JSON]]...: an http server that answers `ID NAME`; options are those of server.listen,
//   and maxConnections, dropMaxConnection
// - drop NAME ADDRESS [OPTION]...: ends every connection at once
// - udp NAME ADDRESS [OPTION]...: answers every datagram with `ID NAME TEXT`; options are those of dgram.createSocket
//   and socket.bind, and unref
// - glance ADDRESS: binds a socket, and closes it at once
// - send NAME ADDRESS: one datagram from a socket that is bound by nobody but the sending
// - close NAME, unref NAME (or `channel`), ref NAME
// - wait FILE: until the test has made it
// - chdir DIRECTORY
// - disconnect, kill (of cluster.worker), hangup (process.disconnect)
// - exit CODE, throw, spin (for ever)
// - after MS CODE: exits with that code so long after its channel has ended
// - only ID WORD...: if this is that worker
async function obey([word, ...rest]) {
  const [name, address, ...options] = rest;
  switch (word) {
    case 'only': return name === String(id) ? obey(rest.slice(1)) : undefined;
    case 'listen': return listen(name, httpServer(name), address, options);
    case 'drop': return listen(name, net.createServer((socket) => socket.destroy()), address, options);
    case 'udp': {
      const where = await target(address, options);
      const socket = udpSocket(name, where);
      return bound(name, socket, () => socket.bind(where));
    }
    case 'glance': {
      const where = await target(name, []);
      const socket = udpSocket('glance', where);
      return new Promise((resolve) => socket.bind(where).close(resolve));
    }
    case 'send': {
      const { host, port } = await target(address, []);
      const socket = dgram.createSocket('udp4');
      open.set(name, socket);
      return new Promise((resolve) => socket.send(`${id} ${name}`, port, host, resolve));
    }
    case 'close':
      await new Promise((resolve) => open.get(name).close(resolve));
      return say(`${name} closed`);
    case 'unref': return void open.get(name).unref();
    case 'ref': return void open.get(name).ref();
    case 'after':
      return void process.once('disconnect', () => setTimeout(() => process.exit(Number(address)), Number(name)));
    case 'wait': return told(name);
    case 'chdir': return process.chdir(name);
    case 'disconnect': return void cluster.worker.disconnect();
    case 'kill': return void cluster.worker.kill();
    case 'hangup': return process.disconnect();
    case 'exit': return process.exit(Number(name));
    case 'spin': for (;;);
    case 'throw': throw new Error('as the script says');
    default: throw new Error(`no such thing to do: ${word}`);
  }
}

process.on('disconnect', () => say('disconnected'));
process.on('uncaughtException', (error) => say(`caught ${error.message}`));

(async () => {
  for (const line of script.split('\n')) if (line.trim()) await obey(line.trim().split(/\s+/));
})();
