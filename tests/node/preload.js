// Runs before the program: node -r ./preload.js http.js.
'use strict';

globalThis.preloadedIn = require('cluster').worker.id;
