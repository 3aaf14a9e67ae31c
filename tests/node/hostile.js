// Writes to the primary whatever the path of a request says, past Node's own framing: PORT=8000 node hostile.js, and
// GET /%7B is a line that begins an object and does not end it. /flood/N writes N bytes without the end of a line.
'use strict';

const cluster = require('cluster');
const fs = require('fs');
const http = require('http');

const channel = process.channel.fd;

// The channel does not block: until it takes it, or is gone.
function write(bytes) {
  while (bytes.length > 0) {
    try {
      bytes = bytes.subarray(fs.writeSync(channel, bytes));
    } catch (error) {
      if (error.code !== 'EAGAIN') return;
    }
  }
}

http.createServer((request, response) => {
  const [, word, count] = request.url.split('/');
  if (word === 'flood') write(Buffer.alloc(Number(count), 'x'));
  else if (word) write(Buffer.from(`${decodeURIComponent(request.url.slice(1))}\n`));
  response.writeHead(200, { 'content-length': 5, 'x-worker': cluster.worker.id });
  response.end('hello');
}).listen(process.env.PORT);
