// A client that resumes its first session: node https_client.js PORT. For every line of its input it makes a
// connection and a request, and writes `WORKER resumed` or `WORKER new`.
'use strict';

const https = require('https');
const readline = require('readline');

const port = Number(process.argv[2]);
let session;

function ask() {
  return new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port, agent: false, rejectUnauthorized: false, session };
    const request = https.get(options, (response) => {
      const resumed = response.socket.isSessionReused();
      response.resume().on('end', () => {
        console.log(`${response.headers['x-worker']} ${resumed ? 'resumed' : 'new'}`);
        resolve();
      });
    });
    request.on('socket', (socket) => socket.once('session', (its) => { session = session || its; }));
    request.on('error', reject);
  });
}

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) await ask(line);
})();
