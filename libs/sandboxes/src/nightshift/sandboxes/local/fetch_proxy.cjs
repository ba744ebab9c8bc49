// Lets `fetch` of Node.js before 22.21 use the egress proxy. Newer versions do so by NODE_USE_ENV_PROXY.
// Loaded by NODE_OPTIONS. It sets the dispatcher that undici, the library behind fetch, looks for.
'use strict';
const [major, minor] = process.versions.node.split('.').map(Number);
const key = Symbol.for('undici.globalDispatcher.1');
const proxy = process.env.HTTPS_PROXY;
if (proxy && major >= 18 && (major < 22 || (major === 22 && minor < 21)) && globalThis[key] === undefined) {
  const dispatcher = {
    dispatch(options, handler) {
      const url = new URL(options.path, options.origin);
      let request = null;
      let aborted = null;
      handler.onConnect((error) => {
        aborted = error || new Error('aborted');
        if (request) request.destroy(aborted);
      }, null);
      const failed = (error) => handler.onError(error);
      connect(url, failed, (socket) => {
        if (aborted) return socket ? socket.destroy() : undefined;
        request = send(url, options, socket, handler, failed);
      });
      return true;
    },
    close() { return Promise.resolve(); },
    destroy() { return Promise.resolve(); },
  };
  // Not enumerable, as undici sets it; writable, so that a program can set a dispatcher of its own.
  Object.defineProperty(globalThis, key, { value: dispatcher, writable: true, configurable: true });
}

function connect(url, failed, done) {
  const secure = url.protocol === 'https:';
  if (/^(localhost|127\.[0-9.]+|\[::1\])$/.test(url.hostname)) return done(null);
  const at = new URL(proxy);
  const target = `${url.hostname}:${url.port || (secure ? 443 : 80)}`;
  const asked = require('http').request({
    host: at.hostname, port: at.port, method: 'CONNECT', path: target, headers: { host: target }, agent: false,
  });
  asked.on('error', failed);
  asked.on('connect', (answer, socket) => {
    if (answer.statusCode !== 200) {
      socket.destroy();
      return failed(new Error(`egress proxy: ${answer.statusCode} ${answer.statusMessage}`));
    }
    if (!secure) return done(socket);
    const tls = require('tls').connect({ socket, servername: url.hostname, ALPNProtocols: ['http/1.1'] });
    tls.once('error', failed);
    tls.once('secureConnect', () => { tls.removeListener('error', failed); done(tls); });
  });
  asked.end();
}

function send(url, options, socket, handler, failed) {
  const library = require(url.protocol === 'https:' && !socket ? 'https' : 'http');
  const headers = { host: url.host, ...fields(options.headers) };
  const request = library.request({
    host: url.hostname.replace(/^\[|\]$/g, ''), port: url.port || undefined, method: options.method,
    path: url.pathname + url.search, headers, ...(socket ? { createConnection: () => socket } : { agent: false }),
  });
  request.on('error', failed);
  request.on('response', (answer) => {
    const raw = answer.rawHeaders.map((text) => Buffer.from(text, 'latin1'));
    const resume = () => answer.resume();
    if (handler.onHeaders(answer.statusCode, raw, resume, answer.statusMessage) === false) answer.pause();
    answer.on('data', (chunk) => { if (handler.onData(chunk) === false) answer.pause(); });
    answer.on('end', () => handler.onComplete([]));
    answer.on('error', failed);
  });
  body(request, options.body).catch(failed);
  return request;
}

function fields(given) {
  const found = {};
  const add = (name, value) => { found[String(name).toLowerCase()] = value; };
  if (Array.isArray(given)) for (let at = 0; at < given.length; at += 2) add(given[at], given[at + 1]);
  else if (given && given[Symbol.iterator]) for (const [name, value] of given) add(name, value);
  else for (const name of Object.keys(given || {})) add(name, given[name]);
  return found;
}

async function body(request, given) {
  if (given === null || given === undefined || typeof given === 'string' || ArrayBuffer.isView(given)) {
    return request.end(given || undefined);
  }
  for await (const chunk of given) {
    if (!request.write(chunk)) await new Promise((resolve) => request.once('drain', resolve));
  }
  return request.end();
}
