// The sample Outlook add-in in Chromium, against its stub of Office.js and the demo; its manifest.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { launch, logIn, openPage, overflow, SCREENSHOTS, startDemo, STATIC, until, violations } from './support.mjs';

let browser;
let demo;

before(async () => {
  demo = await startDemo();
  browser = await launch();
});

after(async () => {
  await browser?.close();
  demo?.stop();
});

const status = (page, state) => page.waitForSelector(`#status[data-state="${state}"]`, { timeout: 20_000 });
const text = (page) => page.textContent('#status');

async function openPane(options) {
  const opened = await openPage(browser, `${demo.address}/outlook/${options?.platform ? `?platform=${options.platform}` : ''}`, { viewport: { width: 320, height: 640 }, ...options });
  await status(opened.page, 'idle');
  return opened;
}

/** Presses "Sign in" and, where Outlook asks, "Allow"; gives the dialog's window. */
async function openDialog(page, { asks = true } = {}) {
  const popup = page.waitForEvent('popup');
  await page.click('#sign-in');
  if (asks) await page.getByRole('button', { name: 'Allow' }).click();
  return popup;
}

for (const [platform, asks, user] of [['web', true, 'alice'], ['desktop', false, 'bob']]) {
  test(`a reader signs in, ${platform}`, async () => {
    const { context, page, requests, troubles } = await openPane({ platform });
    assert.match(await page.textContent('#message'), /Lunch on Thursday/);
    const dialog = await openDialog(page, { asks });
    await page.waitForSelector('#code-box:visible');
    const code = await page.textContent('#user-code');
    assert.match(code, /^[A-Z]{4}-[A-Z]{4}$/);
    await dialog.waitForSelector('button[value=continue]');
    assert.match(await dialog.textContent('body'), new RegExp(code));
    await dialog.click('button[value=continue]');
    const messages = page.evaluate(() => new Promise((resolve, reject) => {
      window.addEventListener('message', ({ data }) => data?.officeStub && resolve(data));
      setTimeout(reject, 30_000, new Error('the dialog sends no message'));
    }));
    await logIn(dialog, user);
    await status(page, 'signed-in');
    assert.equal(await page.textContent('#email'), `${user}@example.com`);
    assert.ok(requests.includes('GET /addons/me'), requests.join(', '));
    assert.deepEqual(await messages, { officeStub: 'to-parent', message: '{"type":"token-relay","status":"done"}' }, 'the last page tells the pane, and no token');
    // On the desktop window.close() does nothing: there it is the pane that closes the dialog.
    if (!dialog.isClosed()) await dialog.waitForEvent('close');
    await page.screenshot({ path: `${SCREENSHOTS}outlook-${platform}.png`, fullPage: true });

    await page.click('#sign-out');
    await status(page, 'idle');
    assert.match(await text(page), /revoked/);
    assert.deepEqual(troubles, []);
    await context.close();
  });
}

test('on the desktop the dialog cannot close itself, and its button asks the pane to', async () => {
  const { context, page } = await openPane({ platform: 'desktop' });
  const dialog = await openDialog(page, { asks: false });
  await dialog.click('button[value=deny]');
  await status(page, 'failed');
  assert.match(await text(page), /refused or cancelled/);
  await dialog.waitForSelector('#close', { state: 'attached' });
  await dialog.waitForLoadState('load'); // with the host that closes nothing
  await dialog.evaluate(() => window.close());
  assert.equal(dialog.isClosed(), false);
  const closed = dialog.waitForEvent('close');
  await dialog.click('#close');
  await closed;
  await context.close();
});

test('a dialog left open by a failed sign-in gives way to the next one', async () => {
  const { context, page } = await openPane({ platform: 'web' });
  const first = await openDialog(page);
  await first.click('button[value=deny]');
  await status(page, 'failed');
  assert.equal(first.isClosed(), false, 'it explains the error');
  const closed = first.waitForEvent('close');
  const second = await openDialog(page);
  await closed;
  await second.click('button[value=continue]');
  await logIn(second, 'carol');
  await status(page, 'signed-in');
  await context.close();
});

test('the person does not allow the window (12009)', async () => {
  const { context, page } = await openPane({});
  await page.click('#sign-in');
  assert.deepEqual(await violations(page), [], 'the question');
  await page.getByRole('button', { name: 'Ignore' }).click();
  await status(page, 'failed');
  assert.match(await text(page), /not allowed.*Allow.*12009/);
  assert.equal(await page.isEnabled('#sign-in'), true);
  await context.close();
});

test('the browser blocks the window (12011)', async () => {
  // Playwright turns the blocker off; this browser has it on. What Playwright evaluates counts as a
  // gesture, so a script of the page clicks, and says when the pane has answered.
  const strict = await launch({ ignoreDefaultArgs: ['--disable-popup-blocking'] });
  let answered;
  const { page } = await openPage(strict, `${demo.address}/outlook/?platform=desktop`, {
    async prepare(context, made) {
      answered = made.waitForEvent('console', (message) => message.text() === 'the pane gave up');
      await context.addInitScript(() => {
        let clicked = false;
        const timer = setInterval(() => {
          const button = document.getElementById('sign-in');
          if (!clicked && button && !button.disabled) {
            clicked = true;
            button.click();
          } else if (clicked && document.getElementById('status').dataset.state === 'failed') {
            clearInterval(timer);
            console.log('the pane gave up');
          }
        }, 20);
      });
    },
  });
  await answered;
  assert.match(await text(page), /browser blocked.*Allow pop-ups.*12011/);
  await strict.close();
});

test('another window of the add-in is open (12007)', async () => {
  const { context, page } = await openPane({ platform: 'desktop' });
  await page.evaluate(() => new Promise((opened) => Office.context.ui.displayDialogAsync(`${location.origin}/addons/success`, {}, opened)));
  await page.click('#sign-in');
  await status(page, 'failed');
  assert.match(await text(page), /open already. Close it.*12007/);
  await context.close();
});

test('the person closes the window (12006)', async () => {
  const { context, page, requests } = await openPane({});
  const dialog = await openDialog(page);
  await dialog.waitForSelector('button[value=continue]');
  await dialog.close();
  await status(page, 'failed');
  assert.match(await text(page), /closed before the login was over. Press Sign in/);
  await until('the session is given up', () => requests.some((request) => request.startsWith('DELETE /addons/sessions/')));
  await context.close();
});

test('cancelled in the pane', async () => {
  const { context, page } = await openPane({ platform: 'desktop' });
  const dialog = await openDialog(page, { asks: false });
  const closed = dialog.waitForEvent('close');
  await page.click('#cancel');
  await status(page, 'failed');
  assert.match(await text(page), /Cancelled/);
  await closed;
  await context.close();
});

test('Office.js does not load', async () => {
  const { context, page } = await openPage(browser, `${demo.address}/outlook/`, {
    prepare: (made) => made.route('**/office-stub.js', (route) => route.abort()),
  });
  await status(page, 'failed');
  assert.match(await text(page), /could not be loaded/);
  assert.equal(await page.isEnabled('#sign-in'), false);
  await context.close();
});

test('inside Office, Office.js comes from Microsoft and nothing stands in for it', async () => {
  const asked = [];
  const { context, page } = await openPage(browser, `${demo.address}/outlook/?_host_Info=Outlook$Win32$16.02$en-US`, {
    prepare: (made) => made.route('https://appsforoffice.microsoft.com/**', (route) => {
      asked.push(route.request().url());
      return route.fulfill({ contentType: 'text/javascript', body: 'window.Office = { onReady: (ready) => ready({ host: "Outlook" }), context: {} };' });
    }),
  });
  await status(page, 'idle');
  assert.deepEqual(asked, ['https://appsforoffice.microsoft.com/lib/1/hosted/office.js']);
  assert.equal(await page.isVisible('#stub-note'), false);
  await context.close();
});

test('the stub passes messages both ways, and knows its requirement sets', async () => {
  const { context, page } = await openPane({ platform: 'desktop' });
  const popup = page.waitForEvent('popup');
  await page.evaluate(() => new Promise((opened) => Office.context.ui.displayDialogAsync(`${location.origin}/addons/error`, {}, ({ value }) => {
    window.dialog = value;
    opened();
  })));
  const dialog = await popup;
  await dialog.waitForFunction(() => globalThis.Office);
  const heard = dialog.evaluate(() => new Promise((resolve) => Office.context.ui.addHandlerAsync(Office.EventType.DialogParentMessageReceived, ({ message }) => resolve(message), () => { window.listening = true; })));
  await dialog.waitForFunction(() => window.listening);
  await page.evaluate(() => window.dialog.messageChild('from the pane'));
  assert.equal(await heard, 'from the pane');
  assert.deepEqual(await page.evaluate(() => ['1.1', '1.2', '9.9'].map((version) => Office.context.requirements.isSetSupported('DialogApi', version))), [true, true, false]);
  const elsewhere = await page.evaluate(() => new Promise((done) => Office.context.ui.displayDialogAsync('https://elsewhere.example/', {}, ({ error }) => done(error.code))));
  assert.equal(elsewhere, 12004);
  await context.close();
});

test('the pane is accessible and fits', async () => {
  for (const colorScheme of ['light', 'dark']) {
    const { context, page } = await openPane({ colorScheme });
    assert.deepEqual(await violations(page), [], `idle, ${colorScheme}`);
    const dialog = await openDialog(page);
    await page.waitForSelector('#code-box:visible');
    assert.deepEqual(await violations(page), [], `waiting, ${colorScheme}`);
    assert.equal(await overflow(page), 0);
    await page.screenshot({ path: `${SCREENSHOTS}outlook-waiting-${colorScheme}.png` });
    await dialog.click('button[value=deny]');
    await status(page, 'failed');
    assert.deepEqual(await violations(page), [], `failed, ${colorScheme}`);
    await page.screenshot({ path: `${SCREENSHOTS}outlook-failed-${colorScheme}.png` });
    const again = await openDialog(page);
    await again.click('button[value=continue]');
    await logIn(again, 'alice');
    await status(page, 'signed-in');
    assert.deepEqual(await violations(page), [], `signed in, ${colorScheme}`);
    assert.equal(await overflow(page), 0);
    await page.setViewportSize({ width: 1280, height: 800 });
    await page.screenshot({ path: `${SCREENSHOTS}outlook-wide-${colorScheme}.png` });
    await context.close();
  }
});

test('the manifest has what Outlook requires, in its order, and names files that are there', async () => {
  const context = await browser.newContext();
  const page = await context.newPage();
  const xml = await (await fetch(`${demo.address}/outlook/manifest.xml`)).text();
  const manifest = await page.evaluate((source) => {
    const parsed = new DOMParser().parseFromString(source, 'application/xml');
    const trouble = parsed.querySelector('parsererror');
    if (trouble) return { trouble: trouble.textContent };
    const XSI = 'http://www.w3.org/2001/XMLSchema-instance';
    const tree = (element) => ({
      name: element.localName,
      namespace: element.namespaceURI,
      type: element.getAttributeNS(XSI, 'type'),
      attributes: Object.fromEntries([...element.attributes].map(({ name, value }) => [name, value])),
      text: element.children.length ? '' : element.textContent.trim(),
      children: [...element.children].map(tree),
    });
    return tree(parsed.documentElement);
  }, xml);
  assert.equal(manifest.trouble, undefined);

  const all = (node) => [node, ...node.children.flatMap(all)];
  const child = (node, name) => node.children.find((inner) => inner.name === name);
  const names = (node) => node.children.map((inner) => inner.name);
  const value = (name) => child(manifest, name).attributes.DefaultValue;

  assert.deepEqual([manifest.name, manifest.type, manifest.namespace], ['OfficeApp', 'MailApp', 'http://schemas.microsoft.com/office/appforoffice/1.1']);
  // The schema is a sequence: the order counts.
  assert.deepEqual(names(manifest), ['Id', 'Version', 'ProviderName', 'DefaultLocale', 'DisplayName', 'Description', 'IconUrl', 'HighResolutionIconUrl', 'SupportUrl',
    'AppDomains', 'Hosts', 'Requirements', 'FormSettings', 'Permissions', 'Rule', 'DisableEntityHighlighting', 'VersionOverrides']);
  assert.match(child(manifest, 'Id').text, /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/);
  assert.match(child(manifest, 'Version').text, /^\d+(\.\d+){3}$/);
  assert.ok(value('DisplayName').length <= 125 && value('Description').length <= 250);
  assert.equal(child(manifest, 'Permissions').text, 'ReadItem');
  assert.equal(child(child(manifest, 'Hosts'), 'Host').attributes.Name, 'Mailbox');

  const older = child(manifest, 'VersionOverrides');
  const newer = child(older, 'VersionOverrides');
  assert.deepEqual([older.type, newer.type], ['VersionOverridesV1_0', 'VersionOverridesV1_1']);
  assert.deepEqual(names(newer), ['Requirements', 'Hosts', 'Resources']);
  const point = all(newer).find((node) => node.name === 'ExtensionPoint');
  assert.equal(point.type, 'MessageReadCommandSurface', 'read mode');
  const control = all(point).find((node) => node.name === 'Control');
  assert.deepEqual(names(control), ['Label', 'Supertip', 'Icon', 'Action']);
  assert.equal(child(control, 'Action').type, 'ShowTaskpane');
  assert.deepEqual(child(control, 'Icon').children.map((image) => image.attributes.size), ['16', '32', '80'], 'the sizes that are required');

  // What is named is defined, once and of the right kind.
  const kinds = { Label: 'String', Title: 'String', Description: 'String', Image: 'Image', SourceLocation: 'Url' };
  const resources = child(newer, 'Resources');
  const defined = all(resources).filter((node) => node.attributes.id);
  const ids = defined.map((node) => node.attributes.id);
  assert.equal(new Set(ids).size, ids.length);
  for (const { name, attributes } of all(newer).filter((node) => node.attributes.resid)) {
    const found = defined.find((node) => node.attributes.id === attributes.resid);
    assert.equal(found?.name, kinds[name], `${name} ${attributes.resid}`);
  }
  for (const { name, attributes } of defined) assert.ok(attributes.id.length <= 32 && (name !== 'String' || attributes.DefaultValue.length <= 250));

  // Every address is https, of an app domain, and served by the demo; icons have their sizes.
  const domains = child(manifest, 'AppDomains').children.map((domain) => domain.text);
  const addresses = all(manifest).map((node) => node.attributes.DefaultValue).filter((address) => /^http/.test(address ?? ''));
  assert.ok(addresses.length >= 8);
  for (const address of addresses) {
    const url = new URL(address);
    assert.equal(url.protocol, 'https:');
    assert.ok(domains.includes(url.origin), address);
    const answer = await fetch(demo.address + url.pathname);
    assert.equal(answer.status, 200, address);
    const size = /icon-(\d+)\.png$/.exec(address)?.[1];
    if (!size) continue;
    const bytes = Buffer.from(await answer.arrayBuffer());
    assert.deepEqual([bytes.readUInt32BE(16), bytes.readUInt32BE(20)], [Number(size), Number(size)], address);
  }
  assert.match(value('IconUrl'), /icon-64/);
  assert.match(value('HighResolutionIconUrl'), /icon-128/);
  assert.equal(readFileSync(`${STATIC}outlook/manifest.xml`, 'utf8'), xml);
  await context.close();
});
