// The first page of the dialog: asks the window that opened it for a proof that it holds the
// session token (docs/security.md), and offers the code when none comes.
'use strict';

(() => {
  const page = document.getElementById('proof').dataset;
  const root = document.documentElement;
  const READY = 300; // ms between two messages
  const CODE = 2000; // ms until the code is offered
  const REFUSALS = 5;
  const STUCK = 10000; // ms until the page says that nothing works

  const { opener } = window;
  const office = window.Office;
  const origins = page.origins ? JSON.parse(page.origins) : [];
  let { challenge } = page;
  let posting = false;
  let refused = 0;

  function show(phase) {
    root.dataset.phase = phase;
    const heading = document.querySelector(`#${phase} h1`);
    document.title = document.title.replace(document.querySelector('#waiting h1').textContent, heading.textContent);
    (document.getElementById('user-code') || heading).focus();
  }

  async function post(proof, origin) {
    if (posting || typeof proof !== 'string' || !origin || origin === 'null') return;
    posting = true;
    try {
      const { dialog, csrf } = page;
      const response = await fetch(page.action, {
        method: 'POST', body: new URLSearchParams({ dialog, csrf, origin, proof }), credentials: 'same-origin',
      });
      const answer = await response.json();
      if (answer.location || answer.reload) {
        if (opener && !('office' in page)) window.opener = null;
        if (answer.reload) window.location.reload();
        else window.location.replace(answer.location);
        return; // nothing more is posted
      }
      challenge = answer.challenge || challenge;
      refused += 1;
      if (refused === REFUSALS) return; // an opener that the relay does not accept
    } catch {
      // Offline, or a proxy in between: the next proof is posted again.
      refused += 1;
      if (refused === REFUSALS) return;
    }
    posting = false;
  }

  function received(message, origin) {
    if (message && message.type === 'token-relay:proof') post(message.proof, origin);
  }

  function repeat(send) {
    const all = () => { if (!posting) for (const origin of origins) send({ type: 'token-relay:ready', challenge }, origin); };
    all();
    setInterval(all, READY);
  }

  function askOpener() {
    window.addEventListener('message', (event) => {
      if (event.source === opener) received(event.data, event.origin);
    });
    repeat((message, origin) => opener.postMessage(message, origin));
  }

  // Desktop clients of Office have no opener; there Office.js carries the same messages.
  function askOffice({ platform }) {
    const { PC, Mac } = office.PlatformType || {};
    const { ui } = office.context;
    if (!platform || (platform !== PC && platform !== Mac)) return;
    ui.addHandlerAsync(office.EventType.DialogParentMessageReceived, ({ message, origin }) => {
      try {
        received(JSON.parse(message), origin);
      } catch {
        // not ours
      }
    });
    repeat((message, targetOrigin) => ui.messageParent(JSON.stringify(message), { targetOrigin }));
  }

  let asked = false;
  if (challenge && opener) {
    asked = true;
    askOpener();
  } else if (challenge && office && office.onReady) {
    asked = true;
    office.onReady(askOffice);
  }
  if ('code' in page) setTimeout(show, asked && !document.getElementById('wrong') ? CODE : 0, 'code');
  else setTimeout(show, STUCK, 'stuck');
})();
