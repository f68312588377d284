// Everything that can be done, each by the API's own call and after its plan.

import {change, e, Problem} from './api.js';
import {form, plan, sure} from './dialogs.js';
import {mayChange, refresh, state} from './live.js';
import {toast} from './dom.js';

const networks = () => state.status?.networks || [];
const names = () => networks().map((n) => n.name);

// Some networks' guests are reached without doors, or not at all: the daemon says of which
// modes they are.
const hasDoors = (n) => state.modes.find((m) => m.name === n?.mode)?.forwards ?? true;
const doorNames = () => networks().filter(hasDoors).map((n) => n.name);
const doorGuests = () => [...new Set(state.ports.filter((p) => doorNames().includes(p.network)).map((p) => p.guest).filter(Boolean))];

// run plans what has no form; a refusal is told.
async function run(title, method, path, body) {
  try { await plan(title, (query) => change(method, path, body, query)); } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    toast(problem.message, 'bad');
  }
}

const then = (title, method, path, body) => plan(title, (query) => change(method, path, body, query));

// createNetwork asks for a new network; wish has what is known of it already.
export function createNetwork(wish = {}) {
  const modes = state.modes.length ? state.modes : [{name: 'nat', summary: ''}, {name: 'isolated', summary: ''}, {name: 'bridged', summary: ''}];
  const usual = modes.find((m) => m.default)?.name || modes[0].name;
  const bridged = (v) => v.mode === 'bridged';
  const nics = (state.topology?.nodes || []).filter((n) => n.kind === 'nic').map((n) => n.name);
  form('New network', [
    {name: 'name', label: 'Name', required: true, placeholder: 'lab'},
    {name: 'mode', label: 'Mode', options: modes.map((m) => ({value: m.name, label: m.name, about: m.summary})), value: wish.mode || usual},
    {name: 'uplink', label: 'Uplink', names: ['uplinks'], hint: 'The host’s NIC that becomes a port of the switch. It is moved on trial: keep it within the time, or it is taken back.', list: nics, show: bridged, required: true},
    {name: 'cidr', label: 'Subnet', names: ['subnet', 'subnets'], placeholder: 'a free one is found', hint: 'such as 10.9.0.0/24', show: (v) => !bridged(v)},
    {name: 'dhcp_range', label: 'DHCP range', placeholder: 'the whole subnet', hint: 'such as 10.9.0.100-10.9.0.200, or off', show: (v) => !bridged(v) && v.cidr},
    {name: 'ipv6', label: 'IPv6', placeholder: 'auto', hint: 'auto, off, or a prefix', show: (v) => !bridged(v)},
    {name: 'bridge', label: 'Name of the switch', placeholder: 'a free one is taken', hint: 'such as virbr5'},
    {name: 'autostart', label: 'Start it with the host', type: 'checkbox', value: true},
  ], (v) => {
    const body = {name: v.name, mode: v.mode, autostart: v.autostart};
    if (v.bridge) body.bridge = v.bridge;
    if (bridged(v)) body.uplinks = [v.uplink];
    else {
      if (v.cidr) body.subnets = [{cidr: v.cidr, ...(v.dhcp_range ? {dhcp_range: v.dhcp_range} : {})}];
      if (v.ipv6) body.ipv6 = v.ipv6;
    }
    return then(`New network ${v.name}`, 'POST', '/networks', body);
  });
}

// What "network set" takes, with how it is now.
function settingsOf(n) {
  const four = n.subnets.find((x) => !x.cidr.includes(':')) || {};
  return [
    {name: 'mtu', label: 'MTU', value: String(n.mtu), hint: 'bytes; guests stay plugged in'},
    {name: 'domain', label: 'Domain', value: n.domain},
    {name: 'dhcp-range', label: 'DHCP range', value: four.dhcp_range || '', show: () => !!four.cidr},
    {name: 'lease-time', label: 'Lease time', value: String(four.lease_time || ''), hint: 'seconds, or a duration such as 12h', show: () => !!four.cidr},
    {name: 'ipv6', label: 'IPv6', value: n.ipv6},
    {name: 'allow-users', label: 'Users that may plug in', names: ['allow_users'], value: n.allow_users.join(','), hint: 'names, with commas between'},
    {name: 'autostart', label: 'Start it with the host', options: ['true', 'false'], value: String(n.autostart)},
  ];
}

export function setNetwork(n) {
  const fields = settingsOf(n), before = Object.fromEntries(fields.map((f) => [f.name, f.value]));
  form(`Settings of ${n.name}`, fields, (v) => {
    const settings = Object.fromEntries(Object.entries(v).filter(([k, x]) => x !== before[k] && fields.find((f) => f.name === k && (!f.show || f.show(v)))));
    if (!Object.keys(settings).length) throw new Problem('nothing was changed');
    return then(`Change ${n.name}`, 'PATCH', '/networks/' + e(n.name), {settings});
  });
}

export const startNetwork = (n) => run(`Start ${n.name}`, 'POST', `/networks/${e(n.name)}/start`);
export const stopNetwork = (n) => run(`Stop ${n.name}`, 'POST', `/networks/${e(n.name)}/stop`);
export const removeNetwork = (n) => run(`Remove ${n.name}`, 'DELETE', `/networks/${e(n.name)}`);
export const up = () => run('Start all networks', 'POST', '/up');
export const down = () => run('Stop all networks', 'POST', '/down');

export function addForward(guest = '') {
  form('Open a door', [
    {name: 'listen', label: 'Port on this host', required: true, placeholder: '8080', hint: '[ADDRESS:]PORT[-PORT]; without an address: every address of the host'},
    {name: 'guest', label: 'To', required: true, value: guest, placeholder: 'GUEST:PORT', list: doorGuests(), hint: 'name, hardware address or address; without a port the same one'},
    {name: 'proto', label: 'Protocol', options: ['tcp', 'udp', 'sctp', 'both', 'all']},
    {name: 'from', label: 'Only for', placeholder: 'everybody', hint: 'prefixes, with commas between'},
    {name: 'for', label: 'Closes by itself', options: [{value: '', label: 'never'}, {value: '3600', label: 'in an hour'}, {value: '28800', label: 'in eight hours'}, {value: '86400', label: 'tomorrow'}, {value: '604800', label: 'in a week'}], names: ['until']},
    {name: 'network', label: 'Network', options: [{value: '', label: 'the guest’s'}, ...doorNames()], show: () => doorNames().length > 1},
    {name: 'comment', label: 'Comment'},
    {name: 'force', label: 'Although a program of the host listens there', type: 'checkbox'},
  ], (v) => {
    const body = {listen: v.listen, guest: v.guest, proto: v.proto};
    if (v.from) body.from = v.from.split(/[\s,]+/);
    if (v.for) body.until = new Date(Date.now() + v.for * 1000).toISOString();
    for (const k of ['network', 'comment', 'force']) if (v[k]) body[k] = v[k];
    return then(`Open ${v.listen} to ${v.guest}`, 'POST', '/forwards', body);
  });
}

export const removeForward = (f) => run(`Close ${f.id}`, 'DELETE', '/forwards/' + e(f.id));

export function addReservation(about = {}) {
  form('Reserve an address', [
    {name: 'network', label: 'Network', options: names(), value: about.network || names()[0], required: true},
    {name: 'mac', label: 'Hardware address', required: true, value: about.mac || '', placeholder: '52:54:00:12:34:56', list: state.ports.map((p) => p.mac).filter(Boolean)},
    {name: 'ip', label: 'Address', required: true, value: about.ip || '', placeholder: '192.168.122.50'},
    {name: 'hostname', label: 'Name in DNS', value: about.hostname || ''},
  ], (v) => then(`Reserve ${v.ip}`, 'POST', `/networks/${e(v.network)}/reservations`, {mac: v.mac, ip: v.ip, ...(v.hostname ? {hostname: v.hostname} : {})}));
}

export const removeReservation = (r) => run(`Take back ${r.ip}`, 'DELETE', `/networks/${e(r.network)}/reservations/${e(r.mac)}`);

export function attachPort(network = '') {
  form('Make a port', [
    {name: 'network', label: 'Network', options: names(), value: network || names()[0], required: true},
    {name: 'guest', label: 'Name of the guest', placeholder: 'web'},
    {name: 'user', label: 'User that may open the tap', placeholder: 'root'},
    {name: 'mac', label: 'Hardware address', placeholder: 'one is made up'},
    {name: 'queues', label: 'Queues', placeholder: '1'},
  ], async (v) => {
    const body = {network: v.network};
    for (const k of ['guest', 'user', 'mac']) if (v[k]) body[k] = v[k];
    if (v.queues) body.queues = Number(v.queues) || -1;
    const port = await change('POST', '/ports', body);
    toast(`${port.guest || port.tap} is plugged into ${port.bridge} as ${port.tap}`);
    refresh();
  }, {button: 'Make it', intro: 'A tap for a hypervisor that opens it by name. It touches nothing but its switch, and stays until it is unplugged or the host boots.'});
}

export function detachPort(p) {
  sure(`Unplug ${p.tap}`, `${p.guest || p.tap} loses its network, and the tap is deleted.`, 'Unplug it', async () => {
    await change('DELETE', '/ports/' + e(p.tap));
    toast(`${p.tap} is unplugged`);
    refresh();
  });
}

// Deciding on a change that waits. The answer to confirm is the proof that the
// host can be reached: if the request does not get through, it is sent again for
// as long as there is time.
export async function keepChange(c, left) {
  for (;;) {
    try {
      await change('POST', `/changes/${e(c.id)}/confirm`);
      toast(`${c.title}: kept`);
      break;
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (!problem.away || left() <= 0) { toast(problem.message, 'bad'); break; }
      await new Promise((done) => setTimeout(done, 700));
    }
  }
  refresh();
}

async function decide(c, verb, body, said) {
  try {
    await change('POST', `/changes/${e(c.id)}/${verb}`, body);
    toast(`${c.title}: ${said}`);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    toast(problem.message, 'bad');
  }
  refresh();
}

export const takeBack = (c) => decide(c, 'cancel', undefined, 'taken back');
export const moreTime = (c) => decide(c, 'extend', {seconds: 60}, 'a minute more');

export const undo = (x) => run(`Undo: ${x.title}`, 'POST', `/log/${e(x.id)}/undo`);

// what there is for a network and a guest, as [label, function].
export function networkActions(n) {
  if (!mayChange() || !n) return [];
  return [
    n.started ? ['Stop', () => stopNetwork(n)] : ['Start', () => startNetwork(n)], ['Settings', () => setNetwork(n)],
    ['Make a port', () => attachPort(n.name)], ['Reserve an address', () => addReservation({network: n.name})], ['Remove', () => removeNetwork(n), 'danger'],
  ];
}

export function portActions(p) {
  if (!mayChange() || !p) return [];
  const four = p.addresses.find((a) => !a.includes(':'));
  return [
    hasDoors(networks().find((n) => n.name === p.network)) && ['Open a door', () => addForward(p.guest || p.mac)],
    p.network && p.mac && four && ['Reserve its address', () => addReservation({network: p.network, mac: p.mac, ip: four, hostname: p.guest})],
    p.made === 'attach' && ['Unplug', () => detachPort(p), 'danger'],
  ].filter(Boolean);
}
