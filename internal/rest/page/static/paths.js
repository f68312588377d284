// "Why can't A reach B?": two ends, the answer in a sentence, the way as a picture
// that the daemon draws, and its steps.

import {h, replace} from './dom.js';
import {e, get, Problem} from './api.js';
import {on, state} from './live.js';

const words = [['lan', 'the router'], ['internet', 'anything beyond it'], ['host', 'this host']];

// ends are what can be asked for: words, then guests.
function ends() {
  const guests = new Map();
  for (const p of state.ports) if (p.guest && !guests.has(p.guest)) guests.set(p.guest, p.addresses[0] || p.network);
  return [...words, ...guests];
}

const marks = {accepted: ['✓', 'fine'], dropped: ['✗', 'bad'], rejected: ['✗', 'bad'], unknown: ['?', 'warn']};

// A question is kept in the address, so that it can be linked to and gone back to.
const keyed = (q) => '#/paths/' + [q.from, q.to, q.port || '', q.proto || ''].map(e).join('/').replace(/\/+$/, '');

function queryOf(q, more) {
  const p = new URLSearchParams({from: q.from, to: q.to});
  if (q.port) p.set('port', q.port);
  if (q.proto) p.set('proto', q.proto);
  for (const [k, v] of Object.entries(more || {})) p.set(k, v);
  return p;
}

export class View {
  constructor() {
    const field = (name, label, attrs) => {
      const input = h('input', {name, id: 'path-' + name, autocomplete: 'off', spellcheck: 'false', autocapitalize: 'off', ...attrs});
      return [input, h('div', {class: 'field'}, h('label', {for: 'path-' + name}, label), input)];
    };
    let from, to, port;
    [this.from, from] = field('from', 'From', {list: 'path-ends', placeholder: 'guest, host, lan, internet, address', required: true});
    [this.to, to] = field('to', 'To', {list: 'path-ends', placeholder: 'guest, host, lan, internet, address', required: true});
    [this.port, port] = field('port', 'Port', {inputmode: 'numeric', placeholder: 'none: a ping'});
    this.proto = h('select', {id: 'path-proto'}, ['tcp', 'udp', 'sctp'].map((x) => h('option', {value: x}, x)));
    this.list = h('datalist', {id: 'path-ends'});
    this.go = h('button', {type: 'submit', class: 'primary'}, 'Find out');
    this.turn = h('button', {type: 'button', title: 'Ask the other way round', onclick: () => { [this.from.value, this.to.value] = [this.to.value, this.from.value]; this.ask(); }}, '⇄', h('span', {class: 'sr'}, ' Ask the other way round'));
    this.answer = h('div', {class: 'answer', 'aria-live': 'polite'});
    this.el = h('section', {class: 'list paths'}, h('header', {}, h('h1', {}, 'Paths'), h('span', {class: 'count'}, 'Why does A not reach B?')),
      h('form', {class: 'asks', novalidate: true, onsubmit: (event) => { event.preventDefault(); this.ask(); }}, from, this.turn, to, port, h('div', {class: 'field'}, h('label', {for: 'path-proto'}, 'Protocol'), this.proto), this.go, this.list), this.answer);
  }

  attach(parent) {
    parent.append(this.el);
    this.leave = on('ports', () => this.complete());
    this.complete();
    // Nobody waits for a hand that has a pointer; a finger would get a keyboard.
    if (!this.from.value && matchMedia('(pointer: fine)').matches) this.from.focus();
  }

  detach() {
    this.leave();
    this.stop?.abort();
    this.el.remove();
  }

  complete() {
    const all = ends(), key = JSON.stringify(all);
    if (key === this.ended) return;
    this.ended = key;
    replace(this.list, all.map(([name, hint]) => h('option', {value: name, label: hint})));
  }

  // select shows the answer to what the address asks for.
  select(from, to, port, proto) {
    if (!from || !to) { this.asked = ''; replace(this.answer); return; }
    this.from.value = from;
    this.to.value = to;
    this.port.value = port || '';
    if (proto) this.proto.value = proto;
    this.find({from, to, port, proto: port ? proto : ''});
  }

  ask() {
    let to = this.to.value.trim();
    const from = this.from.value.trim();
    const withPort = /^([^:[\]]+):(\d+)$/.exec(to); // as the command line has it
    if (withPort) { [, to, this.port.value] = withPort; this.to.value = to; }
    const missing = !from ? this.from : !to ? this.to : null;
    for (const input of [this.from, this.to]) input.setAttribute('aria-invalid', String(input === missing));
    if (missing) { missing.focus(); return; }
    const port = this.port.value.trim(), q = {from, to, port, proto: port && this.proto.value};
    if (location.hash === keyed(q)) this.find(q); // again
    else location.hash = keyed(q);
  }

  async find(q) {
    this.stop?.abort();
    const {signal} = this.stop = new AbortController();
    this.go.disabled = true;
    this.answer.setAttribute('aria-busy', 'true');
    try {
      const path = await get('/why?' + queryOf(q), {limit: 30000, signal});
      if (!signal.aborted) this.show(q, path);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (!signal.aborted) replace(this.answer, h('p', {class: 'error', role: 'alert'}, problem.message));
    } finally {
      if (!signal.aborted) { this.go.disabled = false; this.answer.removeAttribute('aria-busy'); }
    }
  }

  show(q, path) {
    const width = Math.round(Math.min(Math.max(this.answer.clientWidth, 280), 960)), src = '/v1/why/picture?' + queryOf(q, {width});
    const [mark, sort] = marks[path.verdict];
    replace(this.answer,
      h('div', {class: 'sentence ' + sort, role: 'status'}, h('b', {'aria-hidden': 'true'}, mark), h('p', {}, path.sentence)),
      path.mend && h('p', {class: 'fix'}, h('b', {}, 'What mends it'), h('code', {}, path.mend)),
      h('figure', {class: 'path'}, h('img', {src, alt: 'The path: ' + path.sentence, width, decoding: 'async'})),
      h('details', {open: true}, h('summary', {}, 'Step by step'), walk(path.steps.filter((x) => !x.back), 'There'), walk(path.steps.filter((x) => x.back), 'And back')),
      h('p', {class: 'quiet'}, 'On the command line: ', h('code', {}, `drawbridge why ${q.from} ${q.to}${q.port ? ':' + q.port : ''}${q.port && q.proto && q.proto !== 'tcp' ? ' --proto ' + q.proto : ''}`), '; with --probe it also sends a packet and follows it.'));
  }
}

function walk(steps, title) {
  if (!steps.length) return null;
  return [h('h3', {}, title), h('ol', {class: 'walk'}, steps.map((x) => {
    const [mark, sort] = marks[x.verdict];
    return h('li', {class: x.verdict}, h('span', {class: 'mark ' + sort, 'aria-hidden': 'true'}, mark), h('span', {class: 'sr'}, x.verdict + ' '), h('b', {}, x.where), x.owner && x.owner !== 'unknown' && h('span', {class: 'badge'}, x.owner), h('div', {class: 'mono'}, x.what));
  }))];
}
