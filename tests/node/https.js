// An https server with session tickets: PORT=8443 node https.js KEY CERTIFICATE.
'use strict';

const cluster = require('cluster');
const fs = require('fs');
const https = require('https');

const [key, cert] = process.argv.slice(2).map((file) => fs.readFileSync(file));
https.createServer({ key, cert }, (request, response) => {
  response.writeHead(200, { 'content-length': 5, 'x-worker': cluster.worker.id });
  response.end('hello');
}).listen(process.env.PORT);
