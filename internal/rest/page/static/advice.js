// "Bridge or NAT?": the daemon's answer for this host and purpose, with what speaks
// for and against it, what was seen, the commands, and the picture of before and after.

import {h, replace} from './dom.js';
import {get, Problem} from './api.js';
import {createNetwork} from './actions.js';
import {beforeAfter, drawn} from './beforeafter.js';
import {mayChange, on, state} from './live.js';

const purposes = [['', 'nothing in particular'], ['production', 'production'], ['development', 'development'], ['laptop', 'a laptop'], ['ci', 'continuous integration']];
const needs = [
  ['inbound', 'others reach services on guests'], ['lan-peer', 'guests are machines of the LAN, with its addresses'], ['live-migration', 'guests move to other hosts while they run'],
  ['discovery', 'multicast and broadcast of the LAN reach guests'], ['hidden', 'nobody outside reaches guests'], ['no-internet', 'guests reach nobody outside'],
];

const items = (title, list, cls) => list?.length > 0 && [h('h3', {}, title), h('ul', {class: cls || ''}, list.map((x) => h('li', {}, x)))];

export class View {
  constructor() {
    this.purpose = h('select', {id: 'advice-for'}, purposes.map(([value, text]) => h('option', {value}, text)));
    this.needs = needs.map(([value, text]) => h('label', {class: 'choice'}, h('input', {type: 'checkbox', value}), ' ', text));
    this.answer = h('div', {class: 'answer', 'aria-live': 'polite'});
    this.el = h('section', {class: 'list advice'}, h('header', {}, h('h1', {}, 'Advice'), h('span', {class: 'count'}, 'Bridge or NAT?')),
      h('form', {class: 'wishes', onsubmit: (event) => event.preventDefault(), onchange: () => this.ask()},
        h('div', {class: 'field'}, h('label', {for: 'advice-for'}, 'Guests are for'), this.purpose), h('fieldset', {}, h('legend', {}, 'And they need that'), this.needs)), this.answer);
  }

  attach(parent) {
    parent.append(this.el);
    this.leave = on('self', () => this.ask());
    this.ask();
  }

  detach() {
    this.leave();
    this.stop?.abort();
    this.el.remove();
  }

  select() {}

  async ask() {
    this.stop?.abort();
    const {signal} = this.stop = new AbortController(), query = new URLSearchParams(drawn);
    if (this.purpose.value) query.set('for', this.purpose.value);
    for (const box of this.el.querySelectorAll('input:checked')) query.append('need', box.value);
    this.answer.setAttribute('aria-busy', 'true');
    try {
      const advice = await get('/advise?' + query, {limit: 30000, signal});
      if (!signal.aborted) this.show(advice);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (!signal.aborted) replace(this.answer, h('p', {class: 'error', role: 'alert'}, problem.message));
    } finally {
      if (!signal.aborted) this.answer.removeAttribute('aria-busy');
    }
  }

  show(a) {
    const drawing = a.picture && beforeAfter(a), there = state.status?.networks.some((n) => n.mode === a.mode);
    replace(this.answer,
      h('div', {class: 'sentence fine', role: 'status'}, h('p', {}, h('b', {}, a.text[0] || a.mode))),
      h('div', {class: 'columns'},
        h('div', {}, items('Why', a.why), items('What it costs', a.costs), items('What speaks against it', a.against)),
        h('div', {}, items('What was seen on this host', a.evidence))),
      h('h3', {}, 'What to type'), h('pre', {class: 'commands'}, a.commands.map((c) => h('div', {}, c))),
      mayChange() && !there && a.commands.some((c) => c.includes('network create')) && h('div', {class: 'buttons'}, h('button', {type: 'button', class: 'primary', onclick: () => createNetwork({mode: a.mode})}, `New ${a.mode} network…`)),
      h('h3', {}, 'Before and after'), drawing ? h('figure', {class: 'before-after'}, drawing) : h('p', {class: 'quiet'}, a.picture_missing || 'Nothing has to be made: the picture stays as it is.'),
      h('h3', {}, 'The other ways'), h('div', {class: 'others'}, a.others.map((o) => h('article', {class: o.blocked.length ? 'blocked' : ''}, h('h4', {}, o.mode), items('Cannot be here', o.blocked, 'bad'), items('For it', o.for), items('Against it', o.against)))));
  }
}
