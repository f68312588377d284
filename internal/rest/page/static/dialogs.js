// Dialogs: forms that ask, and plans that are looked at before they are carried
// out. The browser's own modal dialogs keep the focus inside and give it back.

import {h, icon, plural, replace, toast} from './dom.js';
import {Problem} from './api.js';
import {beforeAfter, drawn} from './beforeafter.js';
import {refresh} from './live.js';

// show opens a dialog around content and returns it; closed resolves once it is
// gone.
export function show(title, content, {wide} = {}) {
  const id = 'dialog-' + Math.random().toString(36).slice(2);
  const dialog = h('dialog', {class: wide ? 'wide' : '', 'aria-labelledby': id},
    h('header', {}, h('h2', {id}, title), h('button', {type: 'button', class: 'icon-button', 'aria-label': 'Close', onclick: () => dialog.close()}, icon('close'))),
    content);
  document.body.append(dialog);
  const before = document.activeElement;
  dialog.closed = new Promise((done) => dialog.addEventListener('close', () => {
    dialog.remove();
    // The browser gives the focus back by itself, unless what had it was made anew.
    if (document.activeElement === document.body && before?.isConnected) before.focus();
    done();
  }));
  dialog.addEventListener('click', (e) => {
    // The backdrop is the dialog itself, outside of its box.
    const r = dialog.getBoundingClientRect();
    if (e.target === dialog && (e.clientX < r.left || e.clientX > r.right || e.clientY < r.top || e.clientY > r.bottom)) dialog.close();
  });
  dialog.showModal();
  return dialog;
}

// form asks for fields and hands their values to next, which says no by throwing a
// Problem: it is shown at the field it is about. A field is {name, label, hint,
// type, options, value, required, placeholder, list, show}.
export function form(title, fields, next, {button = 'Show the plan', intro} = {}) {
  const error = h('p', {class: 'error', role: 'alert', hidden: true});
  const rows = fields.map(row);
  const submit = h('button', {class: 'primary', type: 'submit'}, button);
  const el = h('form', {novalidate: true}, intro && h('p', {class: 'intro'}, intro), rows.map((r) => r.el), error,
    h('footer', {}, h('button', {type: 'button', onclick: () => dialog.close()}, 'Cancel'), submit));
  const values = () => Object.fromEntries(rows.map((r) => [r.field.name, r.value()]));
  const adapt = () => { const v = values(); for (const r of rows) r.el.hidden = r.field.show ? !r.field.show(v) : false; };
  el.addEventListener('input', adapt);
  adapt();
  const complain = (text, field) => {
    for (const r of rows) r.mark(false);
    const at = rows.find((r) => r.field.name === field || r.field.names?.includes(field));
    error.hidden = false;
    replace(error, text);
    if (at) { at.mark(true); at.input.focus(); }
  };
  el.addEventListener('submit', async (e) => {
    e.preventDefault();
    const missing = rows.find((r) => r.field.required && !r.el.hidden && !r.value());
    if (missing) { complain(missing.field.label + ' is needed', missing.field.name); return; }
    error.hidden = true;
    submit.disabled = true;
    try {
      await next(values());
      dialog.close();
    } catch (problem) {
      complain(problem.message, problem.field);
      if (!(problem instanceof Problem)) throw problem;
    } finally { submit.disabled = false; }
  });
  const dialog = show(title, el);
  rows.find((r) => !r.el.hidden && !r.value())?.input.focus();
  return dialog;
}

let count = 0;

function row(field) {
  const told = field.options?.some((o) => o.about); // what is chosen says what it is
  const id = 'field-' + ++count, hint = (field.hint || told) && h('small', {id: id + '-hint'}, field.hint);
  const common = {id, name: field.name, 'aria-describedby': hint ? id + '-hint' : undefined, 'aria-required': field.required ? 'true' : undefined, autocomplete: 'off'};
  let input, extra;
  if (field.options) input = h('select', common, field.options.map((o) => h('option', {value: o.value ?? o}, o.label ?? o)));
  else if (field.type === 'checkbox') input = h('input', {...common, type: 'checkbox', checked: !!field.value});
  else {
    input = h('input', {...common, type: field.type || 'text', placeholder: field.placeholder, spellcheck: 'false', list: field.list && id + '-list'});
    extra = field.list && h('datalist', {id: id + '-list'}, field.list.map((o) => h('option', {value: o})));
  }
  if (field.value !== undefined && field.type !== 'checkbox') input.value = field.value;
  if (told) {
    const say = () => replace(hint, field.options[input.selectedIndex]?.about);
    input.addEventListener('change', say);
    say();
  }
  const el = field.type === 'checkbox' ? h('div', {class: 'field check'}, h('label', {for: id}, input, ' ', field.label), hint)
    : h('div', {class: 'field'}, h('label', {for: id}, field.label), input, extra, hint);
  return {
    field, el, input, value: () => (field.type === 'checkbox' ? input.checked : input.value.trim()),
    mark: (bad) => input.setAttribute('aria-invalid', bad ? 'true' : 'false'),
  };
}

// plan asks what a change would do, shows it, and carries it out when told to.
// ask(query) sends it; query has dry_run or cut_guests. It throws the Problem that
// the dry run meets, so that a form can show it. done is called with what became of it,
// to say so in place of the usual words.
export async function plan(title, ask, {done: tell} = {}) {
  const dry = await ask({dry_run: true, ...drawn});
  if (dry.nothing_to_do || (!dry.steps.length && !dry.cuts.length && !dry.notes.length)) {
    toast(`${dry.title}: nothing to do`);
    return;
  }
  const error = h('p', {class: 'error', role: 'alert', hidden: true});
  const go = h('button', {class: dry.risk === 'host' || dry.cuts.length ? 'danger' : 'primary', type: 'button'}, dry.cuts.length ? 'Do it, and cut them off' : 'Do it');
  const body = h('div', {class: 'plan'}, cost(dry), drawing(dry), steps(dry.steps, dry.steps.length <= 12), dry.notes.map((n) => h('p', {class: 'note'}, n)),
    dry.files.length > 0 && h('p', {class: 'note'}, 'Changes with the confirmation: ', dry.files.join(', ')), error,
    h('footer', {}, h('button', {type: 'button', onclick: () => dialog.close()}, 'Cancel'), go));
  go.addEventListener('click', async () => {
    go.disabled = true;
    replace(go, 'Working…');
    try {
      const done = await ask(dry.cuts.length ? {cut_guests: true} : {});
      dialog.close();
      if (tell) await tell(done);
      else toast(done.phase === 'waiting' || done.deadline_s !== undefined ? `${done.title}: done, and taken back unless you keep it` : `${done.title}: done in ${Math.round(done.duration_ms)} ms`);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      error.hidden = false;
      replace(error, problem.message, problem.away ? '. A change that waits for you is shown once the daemon answers.' : '');
      go.disabled = false;
      replace(go, 'Try again');
    }
    refresh();
  });
  const dialog = show(title, body, {wide: true});
  go.focus({preventScroll: true});
  dialog.scrollTop = 0;
}

function cost(dry) {
  const parts = [h('li', {}, plural(dry.steps.length, 'step'))];
  if (dry.risk === 'host') parts.push(h('li', {class: 'bad'}, 'the host’s own connections are at risk: it is taken back by itself unless you keep it'));
  if (dry.cuts.length) parts.push(h('li', {class: 'bad'}, 'guests are cut off: ', dry.cuts.join(', ')));
  else if (dry.risk !== 'host') parts.push(h('li', {class: 'fine'}, 'nobody is cut off'));
  return h('ul', {class: 'cost', 'aria-label': 'What it costs'}, parts);
}

function drawing(dry) {
  const el = beforeAfter(dry);
  return el && h('figure', {class: 'before-after'}, el);
}

const sign = {create: '+', change: '~', delete: '−'};

function steps(list, open) {
  return h('details', {open, class: 'steps'}, h('summary', {}, 'Steps, in order'),
    h('ol', {}, list.map((x) => h('li', {class: x.verb}, h('span', {class: 'sign', 'aria-hidden': 'true'}, sign[x.verb]), h('span', {class: 'sr'}, x.verb + ' '), h('b', {}, x.kind), ' ', x.name, x.detail && h('small', {}, x.detail)))));
}

// sure asks once more about what has no plan.
export function sure(title, text, button, act) {
  const error = h('p', {class: 'error', role: 'alert', hidden: true});
  const go = h('button', {class: 'danger', type: 'button', onclick: async () => {
    go.disabled = true;
    try {
      await act();
      dialog.close();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      error.hidden = false;
      replace(error, problem.message);
      go.disabled = false;
    }
  }}, button);
  const dialog = show(title, h('div', {}, h('p', {}, text), error, h('footer', {}, h('button', {type: 'button', onclick: () => dialog.close()}, 'Cancel'), go)));
}
