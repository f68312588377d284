// The API of the daemon that this page came from, and the login.

// Problem is a refusal as the API words it, or the lack of an answer.
export class Problem extends Error {
  constructor(detail, status = 0, body = {}) {
    super(detail);
    this.status = status;
    this.code = body.code || '';
    this.field = body.field || '';
    this.guests = body.guests || [];
  }
  // away: nobody answered, or a proxy did.
  get away() { return this.status === 0 || this.status === 502 || this.status === 503 || this.status === 504; }
}

// The second secret of the session. What is stored belongs to this origin, its
// port included; the cookie goes to every port of the host name.
const keyName = 'drawbridge-key';

function storedKey() {
  try { return localStorage.getItem(keyName) || ''; } catch { return ''; }
}

// call sends one request. limit is in milliseconds; a change may take long.
export async function call(method, path, body, {limit = 15000, signal, again = false} = {}) {
  const headers = {Accept: 'application/json'};
  if (method !== 'GET') {
    const key = storedKey();
    if (key) headers['Drawbridge-Key'] = key;
  }
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const timeout = AbortSignal.timeout(limit);
  let resp;
  try {
    resp = await (method === 'GET' && globalThis.boot.taken(path) || fetch('/v1' + path, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body), credentials: 'same-origin', redirect: 'error',
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    }));
  } catch (e) {
    // Browsers give up requests when the network of their machine changes, which on
    // a KVM host is often: who only reads asks once more before it is a loss.
    if (method === 'GET' && !again && !timeout.aborted && !signal?.aborted) {
      await new Promise((done) => setTimeout(done, 250));
      return call(method, path, body, {limit, signal, again: true});
    }
    throw new Problem(timeout.aborted ? 'the daemon does not answer in time' : 'the daemon cannot be reached');
  }
  if (resp.status === 204) return null;
  let answer;
  try { answer = await resp.json(); } catch { answer = null; }
  if (!resp.ok) throw new Problem(answer?.detail || `unexpected answer: ${resp.status} ${resp.statusText}`, resp.status, answer || {});
  if (answer === null) throw new Problem('the answer was cut short');
  return answer;
}

export const get = (path, options) => call('GET', path, undefined, options);

// A change may wait for a guest or a DHCP server.
const changeLimit = 120000;

export function change(method, path, body, query = {}) {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(query)) if (v) q.set(k, String(v));
  return call(method, path + (q.size ? '?' + q : ''), body, {limit: changeLimit});
}

// linkSecret takes the secret out of the address, where it came with a login
// link, so that it stays neither in the address bar nor in the history.
export function linkSecret() {
  const secret = /^#login=([\w-]+)$/.exec(location.hash)?.[1];
  if (secret) history.replaceState(null, '', location.pathname);
  return secret;
}

// enter logs in by the secret of a link or a token.
export async function enter(secret) {
  const self = await call('POST', '/session', {secret});
  try { localStorage.setItem(keyName, self.key); } catch { /* then this browser may only look */ }
  return self;
}

export async function leave() {
  await call('DELETE', '/session');
  try { localStorage.removeItem(keyName); } catch { /* it was not kept */ }
}

// e writes a part of a path.
export const e = encodeURIComponent;
