// What is wrong with the host, and what mends it: doctor's findings as the daemon
// knows them, each with its evidence, its command, and a button that carries it out
// after its plan was looked at.

import {$, ago, h, replace, toast} from './dom.js';
import {change, get, Problem} from './api.js';
import {plan} from './dialogs.js';
import {badge} from './lists.js';
import {mayChange, on, refresh, set, state, watch} from './live.js';

// nodeOf is the id in the picture of what a finding is about: what has it in its
// list there.
const nodeOf = (f) => state.topology?.nodes.find((n) => n.findings?.some((x) => x.id === f.id))?.id;

const about = (f) => f.guest || f.network || '';
const nameOf = (f) => (f.guest ? 'guest ' + f.guest : f.network ? 'network ' + f.network : f.link || 'this host');

// hashOf is where a finding is shown.
export const hashOf = (id) => '#/findings/' + encodeURIComponent(id);

// command is what a person would type to mend it.
const command = (f) => ['drawbridge doctor', about(f), '--fix=' + f.code].filter(Boolean).join(' ');

// examine looks at everything now, and shows what is found everywhere on the page.
async function examine() {
  set('doctor', await get('/doctor', {limit: 30000}));
  refresh('topology');
}

// joined puts the changes of several fixes together, to be looked at as one plan.
function joined(title, treatments) {
  const all = treatments.map((t) => t.change), flat = (key) => all.flatMap((c) => c[key] || []);
  const undo = treatments.map((t) => t.undo).filter(Boolean);
  return {
    title, undo, steps: flat('steps'), cuts: flat('cuts'), files: flat('files'),
    notes: [...flat('notes'), ...treatments.flatMap((t) => (t.finding.fix.undo ? ['Taken back by hand: ' + t.finding.fix.undo] : []))],
    risk: all.some((c) => c.risk === 'host') ? 'host' : all[0]?.risk || 'none', picture: all.find((c) => c.picture?.nodes.some((n) => n.mark) || c.picture?.edges.some((x) => x.mark))?.picture,
    duration_ms: all.reduce((sum, c) => sum + (c.duration_ms || 0), 0), deadline_s: all.find((c) => c.deadline_s !== undefined)?.deadline_s, phase: all.find((c) => c.phase === 'waiting')?.phase,
  };
}

// mend carries out the fixes of one sort of finding.
async function mend(f) {
  try {
    await plan(`Mend ${f.code} of ${nameOf(f)}`, async (query) => joined(`Mend ${f.code}`, await change('POST', '/doctor/fix', {code: f.code, ...(about(f) ? {about: about(f)} : {})}, query)), {
      done: async (c) => {
        toast(`${c.title}: done${c.undo.length ? '. Taken back by: ' + c.undo.join('; ') : ''}`);
        await examine();
      },
    });
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    toast(problem.message, 'bad');
  }
}

function fixOf(f) {
  const {fix} = f;
  return [
    (fix.automatic || fix.command) && h('p', {class: 'fix'}, h('b', {}, 'Mend it'), h('code', {}, fix.automatic ? command(f) : fix.command),
      fix.automatic && mayChange() && h('button', {type: 'button', class: 'primary', data: {key: 'mend ' + f.id}, 'aria-label': `Mend ${f.code} of ${nameOf(f)}`, onclick: () => mend(f)}, 'Mend it…')),
    fix.automatic && fix.command && !fix.command.startsWith('drawbridge doctor') && h('p', {class: 'fix'}, h('b', {}, 'By hand'), h('code', {}, fix.command)),
    fix.advice && h('p', {class: 'fix'}, h('b', {}, fix.automatic || fix.command ? 'Or' : 'What helps'), h('span', {}, fix.advice)),
    fix.undo && h('p', {class: 'fix'}, h('b', {}, 'Taken back by'), h('code', {}, fix.undo)),
  ];
}

// View is the list of findings; the one with the id that is selected stands out.
export class View {
  constructor() {
    this.count = h('span', {class: 'count', 'aria-live': 'polite'});
    this.look = h('button', {type: 'button', onclick: () => this.again()}, 'Look now');
    this.body = h('div', {class: 'findings'});
    this.el = h('section', {class: 'list'}, h('header', {}, h('h1', {}, 'Findings'), this.count, h('div', {class: 'tools-row end'}, this.look)), this.body);
  }

  attach(parent) {
    parent.append(this.el);
    this.leave = on('doctor self topology', () => this.draw());
    watch('doctor');
    refresh('doctor');
    this.draw();
  }

  detach() {
    watch(null);
    this.leave();
    this.el.remove();
  }

  select(id) {
    this.id = id;
    this.draw();
    this.show();
  }

  // show brings the finding that was asked for into sight, and the focus to it.
  show() {
    const card = this.id && this.body.querySelector(`[data-id="${CSS.escape(this.id)}"]`);
    if (!card) return;
    this.shown = this.id;
    card.scrollIntoView({block: 'center'});
    $('h2', card).focus({preventScroll: true});
  }

  async again() {
    this.look.disabled = true;
    replace(this.look, 'Looking…');
    try { await examine(); } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      toast(problem.message, 'bad');
    }
    this.look.disabled = false;
    replace(this.look, 'Look now');
  }

  draw() {
    const d = state.doctor;
    if (!d?.seen) { replace(this.body, h('p', {class: 'empty'}, 'Looking…')); return; }
    replace(this.count, `${d.checks} checks, ${ago(d.seen)}`);
    const key = JSON.stringify([d.findings, mayChange(), this.id, d.findings.map(nodeOf)]);
    if (key === this.key) return; // nothing moves under the hand
    this.key = key;
    const had = this.body.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    replace(this.body, d.findings.length ? d.findings.map((f) => this.card(f)) : h('p', {class: 'empty fine'}, 'Nothing is wrong.'),
      this.id && !d.findings.some((f) => f.id === this.id) && h('p', {class: 'empty'}, `${this.id} is no longer found.`));
    if (had) this.body.querySelector(`[data-key="${CSS.escape(had)}"]`)?.focus();
    if (this.id !== this.shown) this.show();
  }

  card(f) {
    const node = nodeOf(f), id = 'finding-' + Math.random().toString(36).slice(2);
    return h('article', {class: `finding ${f.severity}${f.id === this.id ? ' chosen' : ''}`, data: {id: f.id}, 'aria-labelledby': id},
      h('header', {}, badge(f.severity), h('h2', {id, tabindex: '-1', data: {key: f.id}}, f.code), node ? h('a', {href: '#/picture/' + encodeURIComponent(node)}, nameOf(f)) : h('span', {}, nameOf(f))),
      h('p', {class: 'seen'}, f.seen), h('p', {class: 'means'}, f.means), fixOf(f));
  }
}
