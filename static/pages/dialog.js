// The last page of the dialog: tells the task pane that the dialog is over and closes the window.
// The message holds no secret, therefore any origin may hear it; the token comes another way.
'use strict';

const { status } = document.documentElement.dataset;
const button = document.getElementById('close');

function tellOffice(status) {
  const ui = window.Office?.context?.ui;
  if (!ui?.messageParent) return;
  ui.messageParent(JSON.stringify({ type: 'token-relay', status }), { targetOrigin: '*' });
}

if (status === 'done' || status === 'error') {
  if (button) {
    button.hidden = false;
    button.addEventListener('click', () => {
      tellOffice('close'); // desktop clients of Office ignore window.close()
      window.close();
    });
  }
  if (window.Office?.onReady) window.Office.onReady(() => tellOffice(status));
  // Long enough to read whose account it was; an error stays until the person has read it.
  if (status === 'done') setTimeout(() => window.close(), 1800);
}
