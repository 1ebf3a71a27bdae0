// Stands in for Office.js in a plain browser: as much of it as the sample pane and the last page of
// the sign-in dialog use, with the answers that Outlook gives. Loaded by both.
// `?platform=desktop` in the pane's address behaves like Outlook on the desktop: no question before
// the window, and a window that cannot close itself.
'use strict';
(() => {
  const NAME = 'office-stub-dialog';
  const [kind, dialogPlatform] = window.name.split(':');
  const parent = kind === NAME ? window.opener : null;
  const desktop = parent ? dialogPlatform === 'desktop' : new URLSearchParams(location.search).get('platform') === 'desktop';
  // A dialog of a desktop client is no window that a browser opened.
  if (parent && desktop) Object.defineProperty(window, 'opener', { value: null, writable: true });
  const platform = desktop ? 'PC' : 'OfficeOnline';
  const sets = { DialogApi: 1.2, DialogOrigin: 1.1, Mailbox: 1.13 };
  const EventType = {
    DialogMessageReceived: 'dialogMessageReceived',
    DialogEventReceived: 'dialogEventReceived',
    DialogParentMessageReceived: 'dialogParentMessageReceived',
  };
  const AsyncResultStatus = { Succeeded: 'succeeded', Failed: 'failed' };
  const { close } = window; // its own may do nothing, see the end
  let open; // one dialog at a time

  const later = (callback, result) => setTimeout(() => callback?.(result));
  const failed = (callback, code, message) => later(callback, { status: AsyncResultStatus.Failed, error: { code, message } });

  // Outlook on the web asks before it opens a window, so that the browser sees a click.
  function ask(allow, ignore) {
    const box = document.createElement('dialog');
    box.setAttribute('aria-label', 'Sample Outlook add-in');
    const text = document.createElement('p');
    text.textContent = 'Sample Outlook add-in wants to display a new window.';
    const buttons = document.createElement('div');
    for (const [label, value] of [['Allow', 'allow'], ['Ignore', 'ignore']]) {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = label;
      if (value === 'ignore') button.className = 'quiet';
      button.addEventListener('click', () => box.close(value));
      buttons.append(button);
    }
    box.append(text, buttons);
    box.addEventListener('close', () => {
      box.remove();
      if (box.returnValue === 'allow') allow();
      else ignore();
    });
    document.body.append(box);
    box.showModal();
  }

  class Dialog {
    #window;
    #handlers = {};
    #watch;

    constructor(shown) {
      this.#window = shown;
      this.#watch = setInterval(() => {
        if (!shown.closed) return;
        this.#end();
        this.#tell(EventType.DialogEventReceived, { error: 12006 });
      }, 100);
      window.addEventListener('message', this.#hear);
    }

    #hear = ({ source, origin, data }) => {
      if (source !== this.#window || data?.officeStub !== 'to-parent') return;
      this.#tell(EventType.DialogMessageReceived, { message: data.message, origin });
    };

    #tell(type, argument) {
      for (const handler of this.#handlers[type] ?? []) handler(argument);
    }

    #end() {
      clearInterval(this.#watch);
      window.removeEventListener('message', this.#hear);
      open = undefined;
    }

    addEventHandler(type, handler) {
      (this.#handlers[type] ??= []).push(handler);
    }

    messageChild(message, { targetOrigin = location.origin } = {}) {
      this.#window.postMessage({ officeStub: 'to-child', message: String(message) }, targetOrigin);
    }

    close() {
      this.#end();
      close.call(this.#window);
    }
  }

  function displayDialogAsync(address, options, callback) {
    const { width = 80, height = 80, promptBeforeOpen = true } = typeof options === 'object' ? options : {};
    const done = typeof options === 'function' ? options : callback;
    const url = new URL(address, location.href);
    // The stub knows no manifest: only the pane's own origin is among the app domains.
    if (url.origin !== location.origin) return failed(done, 12004, 'The domain is not trusted.');
    if (url.protocol !== 'https:' && !['127.0.0.1', '[::1]', 'localhost'].includes(url.hostname)) {
      return failed(done, 12005, 'HTTPS is required.');
    }
    if (open) return failed(done, 12007, 'A dialog is open already.');
    // As Office does: the relay knows by it that its pages must stay in touch with the pane.
    url.searchParams.set('_host_Info', desktop ? 'Outlook$Win32$16.02$en-US' : 'Outlook$Web$16.00$en-US');
    const show = () => {
      const size = `width=${Math.round(screen.availWidth * width / 100)},height=${Math.round(screen.availHeight * height / 100)}`;
      const shown = window.open(url, `${NAME}:${desktop ? 'desktop' : 'web'}:${Date.now()}`, `popup,${size}`);
      if (!shown) return failed(done, 12011, 'The browser blocked the window.');
      open = new Dialog(shown);
      later(done, { status: AsyncResultStatus.Succeeded, value: open });
    };
    if (promptBeforeOpen && !desktop) ask(show, () => failed(done, 12009, 'The person ignored the question.'));
    else show();
  }

  const ui = parent ? {
    messageParent(message, { targetOrigin = location.origin } = {}) {
      parent.postMessage({ officeStub: 'to-parent', message: String(message) }, targetOrigin);
    },
    addHandlerAsync(type, handler, callback) {
      if (type !== EventType.DialogParentMessageReceived) return failed(callback, 5001, 'No such event here.');
      window.addEventListener('message', ({ source, origin, data }) => {
        if (source === parent && data?.officeStub === 'to-child') handler({ message: data.message, origin });
      });
      later(callback, { status: AsyncResultStatus.Succeeded });
    },
  } : { displayDialogAsync };
  // Desktop clients ignore it.
  if (parent && desktop) window.close = () => {};

  window.Office = {
    AsyncResultStatus,
    EventType,
    HostType: { Outlook: 'Outlook' },
    PlatformType: { PC: 'PC', OfficeOnline: 'OfficeOnline' },
    context: {
      host: 'Outlook',
      platform,
      displayLanguage: navigator.language,
      requirements: { isSetSupported: (name, version = '1.1') => (sets[name] ?? 0) >= Number(version) },
      ui,
      mailbox: parent ? undefined : {
        item: { itemType: 'message', subject: 'Lunch on Thursday?', from: { displayName: 'Erin Example', emailAddress: 'erin@example.com' } },
      },
    },
    onReady(callback) {
      const info = { host: 'Outlook', platform };
      return Promise.resolve(info).then((ready) => { callback?.(ready); return ready; });
    },
  };
})();
