// Loads the page, and asks for what it shows first meanwhile. It is no module: those
// run once the whole document is read, and this a few lines into it.
//
// Browsers give up what they are loading when the network of the machine that they run
// on changes; on a KVM host it does with every guest that starts. The page is then
// loaded again.

globalThis.boot = (() => {
  const again = 700, limit = 15000, firstName = 'drawbridge-first';

  // sent are answers under way, by path.
  const sent = new Map();

  function send(path) {
    const answer = fetch('/v1' + path, {headers: {Accept: 'application/json'}, credentials: 'same-origin', redirect: 'error', signal: AbortSignal.timeout(limit)});
    answer.catch(() => {}); // whoever takes it hears of it
    sent.set(path, answer);
  }

  // Who comes by a login link is not in yet.
  if (!location.hash.startsWith('#login=')) {
    let first = null;
    try { first = localStorage.getItem(firstName); } catch { /* then it is asked for later */ }
    if (first) send(first);
    send('/session');
  }
  import('./app.js').catch(() => setTimeout(() => location.reload(), again));

  return {
    // taken is the response that was asked for here, as a promise, if there is one:
    // whoever takes it is the only one to read it.
    taken(path) {
      const answer = sent.get(path);
      sent.delete(path);
      return answer;
    },
    // first says what to ask for at once the next time.
    first(path) {
      try { localStorage.setItem(firstName, path); } catch { /* as above */ }
    },
  };
})();
