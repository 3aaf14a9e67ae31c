// A server as one writes it for pm2: it says when it is ready, which takes longer than to listen, finishes when it is
// told `shutdown`, and does by NODE_APP_INSTANCE what only one of all may do. PORT=8000 node pm2_style.js FILE: it is
// ready when that file is there.
'use strict';

const fs = require('fs');
const http = require('http');

const instance = Number(process.env.NODE_APP_INSTANCE);
let says = 'hello';

const server = http.createServer((request, response) => {
  const body = `${says} from instance ${instance}`;
  response.writeHead(200, { 'content-length': body.length });
  response.end(body);
});

function prepare() {
  if (!fs.existsSync(process.argv[2])) return setTimeout(prepare, 2);
  process.send('ready');
  if (instance === 0) console.error('instance 0 does the jobs of all');
}

process.on('message', (message) => {
  if (message !== 'shutdown') return;
  console.error(`instance ${instance} was told to finish`);
  server.close(() => {
    console.error(`instance ${instance} has finished`);
    process.exit(0);
  });
});
server.listen(process.env.PORT, () => {
  console.error(`instance ${instance} prepares`);
  prepare();
});
