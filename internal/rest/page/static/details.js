// The panel beside the picture: one thing with its facts and what can be done to
// it, or the host at a glance.

import {ago, h, icon, plural, replace, size, span} from './dom.js';
import * as act from './actions.js';
import {get, Problem} from './api.js';
import {doorsOf} from './layout.js';
import {mayChange, network, on, port, rateOf, state, summary} from './live.js';
import {badge} from './lists.js';
import {traffic} from './picture.js';

export class Details {
  // close is called when the panel of one thing is closed, open with the id of
  // another thing.
  constructor({close, open}) {
    this.close = close;
    this.open = open;
    this.el = h('aside', {class: 'details', 'aria-label': 'Details'});
    this.id = null;
  }

  attach(parent) {
    parent.append(this.el);
    this.leave = on('topology traffic ports status forwards events self doctor', () => this.draw());
    this.draw();
  }

  detach() { this.leave(); this.el.remove(); }

  show(id) {
    this.id = id;
    this.draw();
  }

  draw() {
    // What is being used is not taken away under the hand: it is drawn again later.
    const had = this.el.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const node = this.id && state.topology?.nodes.find((n) => n.id === this.id);
    this.el.classList.toggle('open', !!this.id);
    if (this.id && !node) replace(this.el, this.head('Gone', ''), h('p', {class: 'empty'}, 'It is no longer there.'));
    else if (node) replace(this.el, this.one(node));
    else replace(this.el, this.glance());
    if (had) this.el.querySelector(`[data-key="${CSS.escape(had)}"]`)?.focus();
  }

  head(title, kind) {
    return h('header', {}, h('div', {}, kind && h('small', {class: 'kind'}, icon(kind.split(' ')[0]), ' ', {bridge: 'switch', lan: 'LAN', nic: 'NIC', forward: 'door', host: 'this host'}[kind] || kind), h('h2', {}, title)),
      h('button', {type: 'button', class: 'icon-button', data: {key: 'close'}, 'aria-label': 'Close the details', onclick: () => this.close()}, icon('close')));
  }

  one(n) {
    const net = n.network ? network(n.network) : undefined;
    const ports = n.kind === 'port' ? [port(n.name)] : n.kind === 'guest' ? state.ports.filter((p) => (p.guest || p.tap) === n.name) : [];
    const doors = n.kind === 'guest' ? (doorsOf(state.topology).get(n.id) || []).map((d) => state.forwards.find((f) => 'forward:' + f.id === d.id)).filter(Boolean) : [];
    const door = n.kind === 'forward' && state.forwards.find((f) => 'forward:' + f.id === n.id);
    const actions = door && mayChange() ? [['Close', () => act.removeForward(door), 'danger']] : n.kind === 'bridge' ? act.networkActions(net) : ports[0] ? act.portActions(ports[0]) : [];
    return [
      this.head(n.kind === 'bridge' && n.network ? n.network : n.name, n.kind),
      n.health !== 'ok' && !(n.findings || []).some((f) => n.note === `${f.code}: ${f.text}`) && h('p', {class: 'trouble ' + n.health, role: 'status'}, badge(n.health), ' ', n.note),
      (net?.problems || []).map((p) => h('p', {class: 'trouble problem'}, p)),
      (n.findings || []).map((f) => h('p', {class: 'trouble ' + (f.severity === 'fault' ? 'problem' : f.severity)}, `${f.code}: ${f.text}`, f.fix && h('code', {}, f.fix), h('a', {href: '#/findings/' + encodeURIComponent(f.id), data: {key: f.id}}, f.automatic && mayChange() ? 'To the finding, and to mend it' : 'To the finding'))),
      facts([
        ['Switch', n.kind === 'bridge' && n.name], ['Mode', n.mode], ['Addresses', n.addresses.join('\n')], ['Hardware', n.mac],
        ['Network', n.kind !== 'bridge' && n.network], ['Subnets', net?.subnets.map((x) => x.cidr).join('\n')], ['DHCP', net?.subnets.map((x) => x.dhcp_range).filter(Boolean).join('\n')],
        ['Leases', net?.pool_size ? `${net.leases} of ${net.pool_size}` : ''], ['Guests', net && String(net.guests)], ['Domain', net?.domain],
        ['Sort', n.type], ['MTU', n.mtu ? `${n.mtu} bytes` : ''], ['Speed', n.speed_mbit ? `${n.speed_mbit} Mbit/s` : ''], ['VLANs', (n.vlans || []).join(' ')],
        ['Now', n.kind === 'nic' && traffic(rateOf(n.id))], ['Listens', n.listen], ['Made for', n.target], ['Leads to', n.kind === 'forward' && (n.leads || n.note)], ['Connections', n.kind === 'forward' && String(n.connections || 0)],
        ['Owner', n.kind === 'port' ? '' : n.owner || (n.foreign ? 'not made by drawbridge' : '')],
      ]),
      ports.filter(Boolean).map((p) => [h('h3', {}, p.tap), facts([
        ['Network', p.network || p.bridge], ['Hardware', p.mac], ['Addresses', p.addresses.join('\n')], ['Now', traffic(rateOf('port:' + p.tap))], ['Received', `${size(p.rx_bytes)}, ${p.rx_packets} packets`], ['Sent', `${size(p.tx_bytes)}, ${p.tx_packets} packets`],
        ['By', p.process ? `${p.made} (${p.process} ${p.pid})` : p.made], ['User id', p.owner !== undefined ? String(p.owner) : ''],
      ])]),
      doors.length > 0 && [h('h3', {}, 'Doors'), h('ul', {class: 'doors'}, doors.map((f) => h('li', {}, h('code', {}, f.id), ' → ', f.address || h('span', {class: 'warn'}, f.waiting), h('small', {}, ` ${plural(f.connections, 'connection')}, ${size(f.bytes)}`),
        mayChange() && h('button', {type: 'button', data: {key: 'close ' + f.id}, onclick: () => act.removeForward(f)}, 'Close'))))],
      this.doctor(n),
      actions.length > 0 && h('div', {class: 'buttons'}, actions.map(([name, f, sort]) => h('button', {type: 'button', class: sort || '', data: {key: name}, onclick: f}, name))),
    ];
  }

  // doctor looks closer at a guest or a network, when asked: it takes a moment.
  doctor(n) {
    const about = n.kind === 'guest' ? n.name : n.kind === 'bridge' ? n.network : '';
    if (!about) return null;
    const found = this.found?.about === about ? this.found : null;
    return [
      h('div', {class: 'buttons'}, h('button', {type: 'button', data: {key: 'doctor'}, disabled: found?.busy, onclick: () => this.examine(about)}, found?.busy ? 'Looking…' : found ? 'Look again' : 'Look closer')),
      found?.problem && h('p', {class: 'trouble'}, found.problem),
      found?.list && (found.list.length ? found.list.map((f) => h('div', {class: 'trouble ' + (f.severity === 'fault' ? 'problem' : '')}, f.seen, f.means && h('div', {}, f.means), f.fix.command && h('code', {}, f.fix.command), f.fix.advice && h('div', {}, f.fix.advice))) : h('p', {class: 'trouble fine'}, 'Nothing is wrong with it.')),
    ];
  }

  async examine(about) {
    this.found = {about, busy: true};
    this.draw();
    try { this.found = {about, list: (await get('/doctor?about=' + encodeURIComponent(about), {limit: 30000})).findings}; } catch (e) {
      if (!(e instanceof Problem)) throw e;
      this.found = {about, problem: e.message};
    }
    this.draw();
  }

  glance() {
    const st = state.status;
    if (!st) return h('p', {class: 'empty'}, 'Reading…');
    const found = state.doctor ? summary(state.doctor) : '';
    return [
      h('header', {}, h('h2', {}, 'At a glance'), mayChange() && h('button', {type: 'button', data: {key: 'new'}, onclick: () => act.createNetwork()}, icon('plus'), ' Network')),
      st.problems.map((p) => h('p', {class: 'trouble problem'}, p)),
      found && h('p', {class: 'trouble ' + (found.includes('fault') ? 'problem' : 'warning')}, h('a', {href: '#/findings', data: {key: 'findings'}}, found + ' found')),
      h('ul', {class: 'nets'}, st.networks.map((n) => h('li', {}, h('button', {type: 'button', data: {key: 'net ' + n.name}, onclick: () => this.open('bridge:' + n.bridge)},
        h('b', {}, n.name), badge(n.state), h('small', {}, `${n.mode} · ${n.subnets[0]?.cidr || n.uplinks.join(' ')} · ${plural(n.guests, 'guest')}`))))),
      facts([['Up for', span(st.uptime_s)], ['Version', st.version], ['Put back', st.repairs ? plural(st.repairs, 'thing') : 'nothing'], ['Doors', String(state.forwards.length)], ['Leases', String(st.leases)]]),
      h('h3', {}, 'Lately'),
      state.events.length ? h('ol', {class: 'lately'}, state.events.slice(0, 12).map((e) => h('li', {}, badge(e.kind), ' ', e.text, h('small', {}, ago(e.time), e.who && e.who !== 'drawbridge' ? `, ${e.who}` : '')))) : h('p', {class: 'quiet'}, 'Nothing since this page was opened.'),
    ];
  }
}

function facts(list) {
  const there = list.filter(([, v]) => v);
  return there.length > 0 && h('dl', {}, there.map(([k, v]) => [h('dt', {}, k), h('dd', {}, v.split('\n').map((line) => h('div', {}, line)))]));
}
