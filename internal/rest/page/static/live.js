// What the daemon says, kept up to date: read once, again when an event says that
// something happened, and now and then in case one was lost.

import {get, Problem} from './api.js';
import {plural} from './dom.js';

// state is what is known. Views read it and are called when a part changes.
export const state = {
  self: null, topology: null, ports: [], status: null, forwards: [], leases: [], log: [], modes: [], doctor: null,
  events: [], connected: true, since: null,
};

// rates are bytes a second by id in the topology: received and sent, by guests and
// ports as guests see it, by NICs and switches as the host does.
export const rates = new Map();

const listeners = new Map();

export function on(parts, f) {
  for (const part of parts.split(' ')) {
    if (!listeners.has(part)) listeners.set(part, new Set());
    listeners.get(part).add(f);
  }
  return () => { for (const part of parts.split(' ')) listeners.get(part)?.delete(f); };
}

function tell(part) {
  for (const f of listeners.get(part) || []) f(part);
}

export function set(part, value) {
  state[part] = value;
  tell(part);
}

// Where each part comes from, and which events make it old.
const sources = {
  topology: {path: '/topology', kinds: 'port lease change network forward repair drift foreign services reservation'},
  ports: {path: '/ports', kinds: 'port lease change repair'},
  status: {path: '/status', kinds: 'port reservation change network repair drift services foreign'},
  forwards: {path: '/forwards', kinds: 'forward lease change port'},
  leases: {path: '/leases', kinds: 'lease change'},
  log: {path: '/log?limit=300', kinds: 'change repair port foreign network'},
  doctor: {path: '/doctor?recent=true', kinds: 'change repair foreign drift'},
  modes: {path: '/modes', kinds: 'none'},
};

// readLimit is how long an answer may take before the connection counts as lost.
const readLimit = 6000;

const old = new Set();
let reading = null, soon = 0;

// Events come in bursts: at most two readings a second.
const pause = 500;

export function refresh(...parts) {
  for (const part of parts.length ? parts : Object.keys(sources)) old.add(part);
  if (!reading && !soon) soon = setTimeout(read, 30);
  return reading;
}

async function read() {
  soon = 0;
  if (document.hidden && state.topology) return; // when it is looked at
  const parts = [...old];
  old.clear();
  reading = Promise.allSettled(parts.map(readPart));
  await reading;
  reading = null;
  if (old.size && state.connected && !soon) soon = setTimeout(read, pause);
}

async function readPart(part) {
  try {
    const value = await (part === 'topology' && early || get(sources[part].path + (part === 'topology' ? how() : ''), {limit: readLimit}));
    if (part === 'topology') early = null;
    if (part === 'topology') took(value);
    else set(part, value);
    arrived();
  } catch (e) {
    if (part === 'topology') early = null;
    old.add(part);
    failed(e);
  }
}

// How many guests there were the last time, also before this page was opened: with the
// form of the window it says how wide the picture shall be and what to fold, so that the
// first one is the right one.
const crowdName = 'drawbridge-guests';
let crowd = 0;
try { crowd = Number(localStorage.getItem(crowdName)) || 0; } catch { /* then it is asked for again */ }

// drawn is how many guests are drawn before those beyond 30 of a network are
// folded.
const drawn = 400;
let unfolded = false;

// widths are how many guests stand side by side. There are few, so that one more guest
// seldom moves all others.
const widths = [9, 12, 16, 20, 24];
// A guest takes 200 pixels by 108 in the picture; beside it and above is room for the rest.
const form = Math.min(3, Math.max(0.5, (innerWidth - 330) / Math.max(1, innerHeight - 110)));

function how() {
  const wanted = Math.sqrt(Math.min(crowd, drawn) * form * 108 / 200) + 0.5;
  return `?columns=${widths.findLast((n) => n <= wanted) || 6}&fold=${unfolded || crowd <= drawn ? -1 : 30}`;
}

export function unfold() {
  unfolded = true;
  refresh('topology');
}

let early = null;

// ahead asks for the picture before it is known who asks.
export function ahead() {
  early = get('/topology' + how());
  early.catch(() => {});
}

function took(topology) {
  measure(topology);
  // The daemon looks for faults a moment after an event: the picture shows that it has.
  const names = [topology, ...topology.nodes].flatMap((x) => x.findings || []).map((f) => f.id).join(' ');
  if (names !== found && state.doctor) refresh('doctor');
  found = names;
  const now = shapeOf(topology);
  if (now === shape) {
    state.topology = topology;
    tell('traffic');
    return;
  }
  shape = now;
  const before = how();
  crowd = topology.nodes.filter((n) => n.kind === 'guest').length;
  try { localStorage.setItem(crowdName, crowd); } catch { /* then not */ }
  if (!unfolded) globalThis.boot.first('/topology' + how());
  set('topology', topology);
  if (how() !== before) refresh('topology');
}

// measure turns counters into rates.
let measured = 0, counted = new Map();

function measure(topology) {
  const now = performance.now(), passed = (now - measured) / 1000;
  if (measured && passed < 0.5) return;
  const next = new Map();
  for (const n of topology.nodes) {
    if (n.kind === 'lan' || n.kind === 'forward' || n.kind === 'more') continue;
    const rx = n.rx_bytes || 0, tx = n.tx_bytes || 0, before = counted.get(n.id);
    next.set(n.id, {rx, tx});
    if (before) rates.set(n.id, {rx: Math.max(0, rx - before.rx) / passed, tx: Math.max(0, tx - before.tx) / passed});
  }
  measured = now;
  counted = next;
  for (const id of rates.keys()) if (!next.has(id)) rates.delete(id);
}

// rateOf is the traffic of a port, NIC, switch or guest, by its id in the topology.
export const rateOf = (id) => rates.get(id) || {rx: 0, tx: 0};

// shapeOf is all of a topology but its counters: while it stays the same, only
// traffic has changed.
function shapeOf(t) {
  return [t.width, t.height, ...t.nodes.map((n) => [n.id, n.health, n.note, n.mode, n.network, n.addresses, n.mac, n.vlans, n.owner, n.target, n.leads, n.members, n.problems, n.mark, n.findings?.map((f) => f.id), n.box && [n.box.x, n.box.y, n.box.w, n.box.h]].join('|')),
    ...t.edges.map((e) => [e.id, e.health, e.note, e.finding, e.mark].join('|'))].join('\n');
}

let shape = '', found = '';

// Losing and finding the daemon.

function failed(e) {
  if (!(e instanceof Problem)) throw e;
  if (e.status === 401) { tell('login'); return; }
  if (e.away) lose();
}

function arrived() {
  if (state.connected) return;
  state.since = null;
  set('connected', true);
}

function lose() {
  if (!state.connected) return;
  state.since = Date.now();
  set('connected', false);
  retry();
}

const retryPause = 1000;

// retry asks until somebody answers; then everything is read anew.
async function retry() {
  while (!state.connected) {
    await new Promise((done) => setTimeout(done, retryPause));
    try {
      set('self', await get('/session', {limit: 4000}));
      arrived();
    } catch (e) {
      if (e.status === 401) { arrived(); tell('login'); return; }
    }
  }
  refresh();
  listen();
}

// Events.

let source = null, last = '';
const maxEvents = 300;

export function listen() {
  source?.close();
  source = null;
  if (document.hidden) return; // browsers open few connections to one host: those who are not looked at need none
  source = new EventSource('/v1/events' + (last ? '?since=' + encodeURIComponent(last) : ''));
  source.onopen = arrived;
  source.onerror = async () => {
    // Also when it merely ended: is the daemon there, and are we let in?
    source?.close();
    source = null;
    try {
      await get('/session', {limit: 4000});
      setTimeout(() => source || listen(), retryPause);
    } catch (e) { failed(e); }
  };
  for (const kind of new Set([...Object.values(sources).flatMap((x) => x.kinds.split(' ')), 'reservation', 'gap'])) source.addEventListener(kind, heard);
}

function heard(message) {
  let event;
  try { event = JSON.parse(message.data); } catch { return; }
  if (message.lastEventId) last = message.lastEventId;
  if (message.type === 'gap') refresh();
  else {
    state.events.unshift(event);
    state.events.length = Math.min(state.events.length, maxEvents);
    tell('events');
    refresh(...Object.keys(sources).filter((part) => sources[part].kinds.split(' ').includes(message.type)));
  }
}

// watch keeps one more part as fresh as the traffic, while a list shows it.
let watched = null;
export function watch(part) { watched = part; }

// painted calls f once what is in the document is on the screen: the frame after the one
// that it is drawn in begins when that is on its way.
export function painted(f) {
  if (document.hidden) f();
  else requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(f)));
}

const countEvery = 2000, allEvery = 30000;

export function start() {
  // The picture first, and at once: the rest would only be in its way.
  old.add('topology');
  read();
  const once = on('topology', () => {
    once();
    painted(() => { refresh(...Object.keys(sources).filter((part) => part !== 'topology')); listen(); });
  });
  setInterval(() => { if (!document.hidden && state.connected) refresh('topology', ...(watched ? [watched] : [])); }, countEvery);
  setInterval(() => { if (state.connected) refresh(); }, allEvery);
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) { source?.close(); source = null; return; }
    if (state.connected) { refresh(); listen(); }
  });
}

// network finds one by name, port one by tap.
export const network = (name) => state.status?.networks.find((n) => n.name === name);
export const port = (tap) => state.ports.find((p) => p.tap === tap);

// summary counts what doctor found; "" if nothing is wrong.
export const summary = (d) => ['fault', 'warning'].map((s) => [s, d.findings.filter((f) => f.severity === s).length]).filter(([, n]) => n).map(([s, n]) => plural(n, s)).join(', ');

export const mayChange = () => state.self !== null && !state.self.read_only;
