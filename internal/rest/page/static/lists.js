// The lists: one table for each sort of thing, to be searched and sorted. On a
// narrow page a row is a card.

import {ago, h, icon, plural, replace, size, span} from './dom.js';
import * as act from './actions.js';
import {mayChange, on, rateOf, state, watch} from './live.js';
import {traffic} from './picture.js';

// A column is [title, text of a row, more]; more has how it is shown (cell), and
// how it sorts (sort).
function table(rows, columns, {empty, actions, open, label}) {
  if (!rows.length) return h('p', {class: 'empty'}, empty);
  const head = h('tr', {}, columns.map(([title], i) => h('th', {scope: 'col'}, h('button', {type: 'button', data: {column: i}}, title))), actions && h('th', {}, h('span', {class: 'sr'}, 'Actions')));
  return h('div', {class: 'table'}, h('table', {'aria-label': label}, h('thead', {}, head), h('tbody', {}, rows.map((r) => h('tr', {},
    columns.map(([title, text, more]) => h('td', {data: {title}, class: more?.class}, more?.cell ? more.cell(r) : text(r))),
    actions && h('td', {class: 'actions'}, actions(r).map(([name, f, sort]) => h('button', {type: 'button', class: sort || '', onclick: f, 'aria-label': `${name}: ${columns[0][1](r)}`}, name))))))));
}

const mono = {class: 'mono'};
const link = (text, hash) => h('a', {href: hash}, text);

const views = {
  networks: {
    title: 'Networks', parts: 'status', rows: () => state.status?.networks, empty: 'There is no network yet.',
    add: ['New network', () => act.createNetwork()], more: () => [['Start all', act.up], ['Stop all', act.down]],
    columns: [
      ['Network', (n) => n.name, {cell: (n) => link(n.name, '#/picture/' + encodeURIComponent('bridge:' + n.bridge))}], ['Mode', (n) => n.mode], ['Switch', (n) => n.bridge, mono],
      ['Subnets', (n) => n.subnets.map((x) => x.cidr).join(' '), mono], ['State', (n) => n.state, {cell: (n) => [badge(n.state), n.problems.map((p) => h('small', {class: 'bad'}, p))]}],
      ['Guests', (n) => n.guests], ['Leases', (n) => (n.pool_size ? `${n.leases} of ${n.pool_size}` : n.leases), {sort: (n) => n.leases}],
    ],
    actions: (n) => act.networkActions(n).filter(([name]) => name !== 'Make a port' && name !== 'Reserve an address'),
  },
  guests: {
    title: 'Guests', parts: 'ports traffic', fresh: 'ports', rows: () => state.ports, empty: 'No guest is plugged in.', add: ['Make a port', () => act.attachPort()],
    columns: [
      ['Guest', (p) => p.guest || '–', {cell: (p) => link(p.guest || p.tap, '#/picture/' + encodeURIComponent(p.guest ? 'guest:' + p.guest : 'port:' + p.tap))}], ['Network', (p) => p.network || p.bridge],
      ['Addresses', (p) => p.addresses.join(' ') || '–', mono], ['Hardware', (p) => p.mac || '–', mono], ['Port', (p) => p.tap, mono],
      ['Traffic', (p) => traffic(rateOf('port:' + p.tap)), {sort: (p) => rateOf('port:' + p.tap).rx + rateOf('port:' + p.tap).tx}], ['Received', (p) => size(p.rx_bytes), {sort: (p) => p.rx_bytes}], ['Sent', (p) => size(p.tx_bytes), {sort: (p) => p.tx_bytes}],
      ['By', (p) => (p.process ? `${p.made} (${p.process} ${p.pid})` : p.made)],
    ],
    actions: act.portActions,
  },
  forwards: {
    title: 'Forwards', parts: 'forwards', fresh: 'forwards', rows: () => state.forwards, empty: 'No door is open.', add: ['Open a door', () => act.addForward()],
    columns: [
      ['Door', (f) => f.id, mono], ['To', (f) => f.guest], ['Leads to', (f) => f.address || f.waiting, {cell: (f) => (f.address ? h('span', {class: 'mono'}, f.address) : h('span', {class: 'warn'}, f.waiting))}], ['Network', (f) => f.network],
      ['For', (f) => (f.from || []).join(' ') || 'everybody'], ['Closes', (f) => (f.until ? 'in ' + span((new Date(f.until) - Date.now()) / 1000) : 'never'), {sort: (f) => f.until || '~'}],
      ['Connections', (f) => f.connections], ['Traffic', (f) => size(f.bytes), {sort: (f) => f.bytes}], ['Comment', (f) => f.comment || ''],
    ],
    actions: (f) => (mayChange() ? [['Close', () => act.removeForward(f), 'danger']] : []),
  },
  leases: {
    title: 'Leases', parts: 'leases', rows: () => state.leases, empty: 'No address was given to a guest.',
    columns: [
      ['Address', (l) => l.address, {...mono, sort: (l) => ordered(l.address)}], ['Guest', (l) => l.guest || '–'], ['Calls itself', (l) => l.hostname || '–'], ['Hardware', (l) => l.mac, mono], ['Network', (l) => l.network],
      ['Ends', (l) => ends(l.expires), {sort: (l) => l.expires || '~'}],
    ],
    actions: (l) => (mayChange() ? [['Reserve', () => act.addReservation({network: l.network, mac: l.mac, ip: l.address, hostname: l.guest})]] : []),
  },
  reservations: {
    title: 'Reservations', parts: 'status', rows: () => state.status?.networks.flatMap((n) => n.reservations.map((r) => ({...r, network: n.name}))), empty: 'No address is reserved.',
    add: ['Reserve an address', () => act.addReservation()],
    columns: [['Address', (r) => r.ip, {...mono, sort: (r) => ordered(r.ip)}], ['Name', (r) => r.hostname || '–'], ['Hardware', (r) => r.mac, mono], ['Network', (r) => r.network]],
    actions: (r) => (mayChange() ? [['Take back', () => act.removeReservation(r), 'danger']] : []),
  },
  changes: {
    title: 'Changes', parts: 'status', rows: () => state.status?.changes, empty: 'No change is under way or waits for anybody.',
    columns: [['Change', (c) => c.title], ['Phase', (c) => c.phase, {cell: (c) => badge(c.phase)}], ['By', (c) => c.who || '–'], ['Steps', (c) => c.steps.length], ['Problem', (c) => c.problem || '']],
    actions: (c) => (mayChange() && c.phase === 'waiting' ? [['Keep it', () => act.keepChange(c, () => c.deadline_s)], ['Take it back', () => act.takeBack(c), 'danger']] : []),
  },
  log: {
    title: 'Log', parts: 'log', rows: () => state.log, empty: 'Nothing is written down yet.',
    columns: [['When', (x) => ago(x.ended), {sort: (x) => x.ended}], ['Sort', (x) => x.kind, {cell: (x) => badge(x.kind)}], ['What', (x) => x.title + (x.times > 1 ? ` (${x.times} times)` : ''), {cell: (x) => [x.title, x.times > 1 && h('small', {}, `${x.times} times`), x.problem && h('small', {class: 'bad'}, x.problem)]}],
      ['Result', (x) => x.result || '', {cell: (x) => x.result && badge(x.result)}], ['Who', (x) => x.who || '–'], ['Networks', (x) => x.networks.join(' ')], ['Took', (x) => `${Math.round(x.duration_ms)} ms`, {sort: (x) => x.duration_ms}]],
    actions: (x) => (mayChange() && x.kind === 'change' && x.result === 'confirmed' && x.id ? [['Undo', () => act.undo(x)]] : []),
  },
  events: {
    title: 'Events', parts: 'events', rows: () => state.events, empty: 'Nothing happened since this page was opened.',
    columns: [['When', (e) => ago(e.time), {sort: (e) => e.time}], ['What', (e) => e.kind, {cell: (e) => badge(e.kind)}], ['', (e) => e.text], ['Who', (e) => e.who || '–']],
  },
};

export const listed = Object.keys(views);
export const titleOf = (name) => views[name].title;

export function badge(word) { return h('span', {class: 'badge ' + word}, word); }

function ends(at) {
  if (!at) return 'never';
  const left = (new Date(at) - Date.now()) / 1000;
  return left < 0 ? 'ended' : 'in ' + span(left);
}

const ordered = (address) => address.split(/[.:]/).map((x) => x.padStart(5, '0')).join('.');

// List is one view in the page.
export class List {
  constructor(name) {
    this.v = views[name];
    this.search = h('input', {type: 'search', placeholder: 'Search', 'aria-label': 'Search in ' + this.v.title, oninput: () => this.draw()});
    this.count = h('span', {class: 'count', 'aria-live': 'polite'});
    this.body = h('div', {});
    this.tools = h('div', {class: 'tools-row'});
    this.el = h('section', {class: 'list'}, h('header', {}, h('h1', {}, this.v.title), this.count, this.search, this.tools), this.body);
    this.body.addEventListener('click', (e) => {
      const column = e.target.closest('th button')?.dataset.column;
      if (column === undefined) return;
      this.turned = this.by === column ? !this.turned : false;
      this.by = column;
      this.draw();
      this.body.querySelector(`[data-column="${Number(column)}"]`)?.focus();
    });
  }

  attach(parent) {
    parent.append(this.el);
    this.leave = on(this.v.parts + ' self', () => this.draw());
    watch(this.v.fresh || null);
    this.draw();
  }

  detach() {
    watch(null);
    this.leave();
    this.el.remove();
  }

  draw() {
    const all = this.v.rows();
    if (!all) { replace(this.body, h('p', {class: 'empty'}, 'Reading…')); return; }
    const {add, more} = this.v;
    if (this.toolsFor !== mayChange()) replace(this.tools, mayChange() && [(more?.() || []).map(([t, f]) => h('button', {type: 'button', onclick: f}, t)), add && h('button', {type: 'button', class: 'primary', onclick: add[1]}, icon('plus'), ' ', add[0])]);
    this.toolsFor = mayChange();
    const want = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let rows = all.filter((r) => { const text = this.v.columns.map(([, f]) => f(r)).join(' ').toLowerCase(); return want.every((w) => text.includes(w)); });
    if (this.by !== undefined) {
      const [, text, opt] = this.v.columns[this.by], key = opt?.sort || text;
      rows = [...rows].sort((a, b) => { const x = key(a), y = key(b); return (x < y ? -1 : x > y ? 1 : 0) * (this.turned ? -1 : 1); });
    }
    replace(this.count, rows.length === all.length ? plural(all.length, 'entry').replace('entrys', 'entries') : `${rows.length} of ${all.length}`);
    // A button that has the focus is made again: it gets it back.
    const had = this.body.contains(document.activeElement) ? document.activeElement.getAttribute('aria-label') : null;
    replace(this.body, table(rows.slice(0, 1000), this.v.columns, {empty: all.length ? 'Nothing is found.' : this.v.empty, actions: this.v.actions && ((r) => this.v.actions(r)), label: this.v.title}), rows.length > 1000 && h('p', {class: 'empty'}, 'The first 1000 are shown; search for others.'));
    if (this.by !== undefined) this.body.querySelectorAll('th')[this.by]?.setAttribute('aria-sort', this.turned ? 'descending' : 'ascending');
    if (had) this.body.querySelector(`[aria-label="${CSS.escape(had)}"]`)?.focus();
  }
}
