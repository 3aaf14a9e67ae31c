// Runs the applications beside this file under croupier, and looks at them as their clients do:
// node check.js CROUPIER NODE. The packages are found by NODE_PATH. Writes a line `ok NAME` or `failed NAME` for each
// feature, and why on stderr; the exit code is 1 if any failed.
'use strict';

const assert = require('assert');
const { execFile, spawn } = require('child_process');
const fs = require('fs');
const http = require('http');
const net = require('net');
const os = require('os');
const path = require('path');
const readline = require('readline');
const { promisify } = require('util');
const { io } = require('socket.io-client');
const { WebSocket } = require('ws');

const WORKERS = 4;
const DEADLINE_MS = 20_000;
const [croupier, node] = process.argv.slice(2);
const place = fs.mkdtempSync(path.join(os.tmpdir(), 'croupier-applications-'));

// Fails, so that nothing waits for ever.
function within(what, promise) {
  let timer;
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${DEADLINE_MS} ms in vain: ${what}`)), DEADLINE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function once(what, emitter, event) {
  return within(what, new Promise((resolve, reject) => {
    emitter.once(event, resolve);
    emitter.once('error', reject);
    emitter.once('connect_error', reject);
  }));
}

// A port that is free at the moment, and none that the kernel gives to clients.
async function freePort() {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    const server = net.createServer();
    const isFree = await new Promise((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, () => server.close(() => resolve(true)));
    });
    if (isFree) return port;
  }
}

// An application under croupier.
class Running {
  static async start(name, options) {
    const it = new Running();
    it.port = await freePort();
    it.control = path.join(place, `${name}.sock`);
    const program = path.join(__dirname, `${name}.js`);
    it.process = spawn(croupier, ['run', `--listen=127.0.0.1:${it.port}`, `--workers=${WORKERS}`, '--dialect=node',
      `--control=${it.control}`, `--env=PORT=${it.port}`, ...options, '--', node, program],
    { stdio: ['ignore', 'ignore', 'pipe'] });
    it.ended = new Promise((resolve) => it.process.once('exit', resolve));
    it.log = [];
    const ready = new Promise((resolve, reject) => {
      readline.createInterface({ input: it.process.stderr }).on('line', (line) => {
        it.log.push(line);
        const listening = it.log.filter((line) => line.includes(` listening on 127.0.0.1:${it.port}`));
        if (listening.length >= WORKERS) resolve();
      });
      it.ended.then(() => reject(new Error('croupier ended')));
    });
    await within('all workers listen', ready).catch((error) => { it.kill(); throw it.explained(error); });
    return it;
  }

  explained(error) {
    error.message += `; the log of croupier:\n${this.log.join('\n')}`;
    return error;
  }

  reload() {
    return promisify(execFile)(croupier, ['reload', '--control', this.control], { timeout: DEADLINE_MS });
  }

  async end() {
    this.process.kill('SIGTERM');
    assert.strictEqual(await within('croupier ends', this.ended), 0);
  }

  kill() {
    this.process.kill('SIGKILL');
  }

  // The status and the body of an answer. Without an agent it is a connection of its own.
  ask(url = '/', { agent = false, body } = {}) {
    const options = { host: '127.0.0.1', port: this.port, path: url, agent, method: body ? 'POST' : 'GET',
      headers: body ? { 'content-type': 'application/json' } : {} };
    return within(`an answer from ${url}`, new Promise((resolve, reject) => {
      const request = http.request(options, (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (piece) => { text += piece; });
        response.on('end', () => resolve({ status: response.statusCode, text })).on('error', reject);
      });
      request.on('error', reject).end(body);
    }));
  }

  async worker() {
    return JSON.parse((await this.ask()).text).worker;
  }

  // Asks again and again while `what` happens. Nobody may be failed.
  async underLoad(what) {
    let isOver = false;
    const client = async () => {
      let answers = 0;
      for (; !isOver || answers < 20; answers += 1) assert.strictEqual((await this.ask()).status, 200);
    };
    const clients = Promise.all([client(), client(), client(), client()]);
    try {
      await Promise.race([what(), clients]);
    } finally {
      isOver = true;
    }
    await clients;
  }
}

async function servesHttp(running) {
  const workers = new Set();
  for (let count = 0; count < 3 * WORKERS; count += 1) workers.add(await running.worker());
  assert.deepStrictEqual([...workers].sort(), [1, 2, 3, 4], 'each has its turn');
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  const body = JSON.stringify({ text: 'ä'.repeat(40_000) });
  const echo = await running.ask('/echo', { agent, body });
  assert.deepStrictEqual([echo.status, echo.text === body], [201, true]);
  const stream = await running.ask('/stream', { agent });
  assert.strictEqual(stream.text.trim().split('\n').length, 20);
  assert.strictEqual((await running.ask('/nowhere', { agent })).status, 404);
  agent.destroy();
}

async function reloadsUnderLoad(running) {
  await running.underLoad(() => running.reload());
  for (let count = 0; count < WORKERS; count += 1) assert.ok(await running.worker() > WORKERS, 'all are new');
}

// A WebSocket; the worker that has it.
async function webSocket(running) {
  const socket = new WebSocket(`ws://127.0.0.1:${running.port}/`);
  const hello = await once('the first message', socket, 'message');
  return { socket, worker: Number(hello) };
}

async function echoes({ socket }) {
  const data = Buffer.alloc(1_000_000, 'x');
  socket.send(data);
  assert.ok(data.equals(await once('the echo', socket, 'message')));
}

async function servesWebSockets(running) {
  const all = await Promise.all(Array.from({ length: 2 * WORKERS }, () => webSocket(running)));
  assert.deepStrictEqual([...new Set(all.map((it) => it.worker))].sort(), [1, 2, 3, 4]);
  await Promise.all(all.map(echoes));
  await running.reload();
  await Promise.all(all.map(echoes)); // those of workers that are finishing
  const late = await webSocket(running);
  assert.ok(late.worker > WORKERS);
  [...all, late].forEach((it) => it.socket.close());
}

// Eight clients of different addresses, with these transports.
async function servesSocketIo(running, transports) {
  const workers = await Promise.all(Array.from({ length: 8 }, async (_, index) => {
    const agent = new http.Agent({ localAddress: `127.0.0.${index + 2}` });
    const socket = io(`http://127.0.0.1:${running.port}`, { transports, agent, forceNew: true, reconnection: false });
    await once('a session', socket, 'connect');
    const { engine } = socket.io;
    if (engine.transport.name !== transports.at(-1)) await once('the upgrade', engine, 'upgrade');
    const text = 'x'.repeat(100_000);
    const ask = (...words) => within(words[0], new Promise((resolve) => { socket.emit(...words, resolve); }));
    for (let count = 0; count < 5; count += 1) assert.strictEqual(await ask('echo', text), text);
    const worker = await ask('who');
    socket.close();
    return worker;
  }));
  assert.ok(new Set(workers).size > 1, `not all clients have one worker: ${workers}`);
}

let failures = 0;

async function feature(name, check) {
  try {
    await check();
    console.log(`ok ${name}`);
  } catch (error) {
    failures += 1;
    console.log(`failed ${name}`);
    console.error(`${name}: ${error.stack}`);
  }
}

async function application(name, options, features) {
  let running;
  await feature(`${name}: starts`, async () => { running = await Running.start(name, options); });
  if (!running) return;
  for (const [what, check] of Object.entries(features)) await feature(`${name}: ${what}`, () => check(running));
  await feature(`${name}: ends`, () => running.end());
  running.kill();
}

(async () => {
  for (const name of ['express', 'koa', 'fastify']) {
    await application(name, [], { 'serves': servesHttp, 'reload under load': reloadsUnderLoad });
  }
  await application('ws', [], { 'serves over a reload': servesWebSockets });
  await application('socketio', ['--policy=source-hash'], {
    'polling': (running) => servesSocketIo(running, ['polling']),
    'websocket': (running) => servesSocketIo(running, ['websocket']),
    'upgrade': (running) => servesSocketIo(running, ['polling', 'websocket']),
  });
  fs.rmSync(place, { recursive: true });
  process.exit(failures > 0 ? 1 : 0);
})();
