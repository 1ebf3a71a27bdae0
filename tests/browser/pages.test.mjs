// Every page of the dialog: in each language, in the small window of an add-in, on a phone, for assistive
// technology, in light and dark. `SCREENSHOTS=1` takes pictures of each at three sizes, light and dark, for
// somebody to look at (docs/accessibility.md); `SCREENSHOTS=all` in every language.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { launch, logIn, overflow, SCREENSHOTS, startDemo, STATIC, violations } from './support.mjs';

const LANGUAGES = ['en', 'fr', 'de', 'nl'];
const SMALL = { width: 478, height: 460 }; // the window that Office gives to a dialog at the least
const PHONE = { width: 320, height: 568 };
const SIZES = [PHONE, SMALL, { width: 1280, height: 800 }];
const texts = Object.fromEntries(LANGUAGES.map((language) => [language, JSON.parse(readFileSync(`${STATIC}locales/${language}.json`, 'utf8'))]));
const ERRORS = Object.entries(texts.en.error).filter(([, text]) => text.title).map(([name]) => name);
// Names as long as they may be.
const NAME = 'Correspondence and Appointments of the Ministry of Ecology 2026';

let browser;
let demo;
let strict; // the code is no proof

before(async () => {
  const environment = { TOKEN_RELAY_TRUSTED_PROXIES: '127.0.0.1', TOKEN_RELAY_SESSIONS_PER_MINUTE: '10000' };
  const secret = 'a secret of the tests of 32 characters or more';
  demo = await startDemo({
    ...environment, TOKEN_RELAY_MEET_COMPATIBLE: 'true', TOKEN_RELAY_MEET_RETURN_TO: 'http://127.0.0.1/', TOKEN_RELAY_ADDONS_CSRF_SECRET: secret, TOKEN_RELAY_ADDONS_TOKEN_SECRET_KEY: secret,
  }, '127.0.0.1:0', ['--allow-production']);
  strict = await startDemo({ ...environment, TOKEN_RELAY_ALLOWED_ORIGINS: 'https://pane.example' });
  browser = await launch();
});

after(async () => {
  await browser?.close();
  demo?.stop();
  strict?.stop();
});

async function create({ address }, body, forwarded) {
  const answer = await fetch(`${address}/addons/sessions`, {
    method: 'POST', body: body && JSON.stringify(body),
    headers: { ...(body && { 'content-type': 'application/json' }), ...(forwarded && { 'x-forwarded-for': forwarded }) },
  });
  return answer.json();
}

/** Goes through every page, and shows each to `examine` when its style sheets and scripts are there. */
async function walk(page, examine) {
  const look = async (...which) => {
    await page.waitForLoadState('load');
    await examine(...which);
  };
  const request = { bind: true, client_name: NAME };
  const stuck = await create(strict, request);
  await page.goto(stuck.transit_url);
  await page.evaluate(() => document.getAnimations().forEach((animation) => animation.pause()));
  await look('waiting', (texts) => texts.proof.title);
  await page.evaluate(() => { document.documentElement.dataset.phase = 'stuck'; });
  await look('stuck', (texts) => texts.proof.stuck_title);

  const far = await create(demo, request, '2001:db8:85a3:1234:5678:8a2e:370:7334');
  await page.goto(far.transit_url);
  await page.waitForSelector('#user-code:visible');
  await look('code', (texts) => texts.proof.code_title);
  await page.fill('#user-code', 'BBBB-BBBB');
  await page.press('#user-code', 'Enter');
  await page.waitForSelector('#wrong:visible');
  await look('code-wrong', (texts) => texts.proof.code_title);
  // The page leads on by itself, and stays where that is answered without content.
  const provider = /\/authorize|\/auth\?/;
  await page.route(provider, (route) => route.fulfill({ status: 204 }));
  const left = page.waitForResponse(provider);
  await page.fill('#user-code', far.user_code);
  await page.press('#user-code', 'Enter');
  await left;
  await page.waitForSelector('#onward');
  await look('onward', (texts) => texts.onward.title);
  await page.unroute(provider);
  await page.goto(await page.getAttribute('#onward', 'href'));
  await logIn(page, 'alice');
  await page.waitForSelector('button[value=continue]:enabled');
  await look('account', (texts) => texts.account.continue_button);
  await page.click('button[value=continue]');
  await page.waitForURL(/addons\/success/);
  await look('success', (texts) => texts.success.title);
  await page.click('form.undo button');
  await page.waitForSelector('form.undo', { state: 'detached' });
  await look('undone', (texts) => texts.error.undone.title);

  // The page that compares codes comes after a proof.
  const compared = await page.evaluate(async (body) => {
    const answer = await fetch('/addons/sessions', { method: 'POST', headers: { 'content-type': 'application/json' }, body });
    return answer.json();
  }, JSON.stringify({ ...request, confirm: true }));
  await page.goto(compared.transit_url);
  await look('confirm', (texts) => texts.confirm.title);
  await page.goto((await create(demo)).transit_url);
  await page.waitForSelector('button[value=continue]:enabled');
  await look('legacy', (texts) => texts.legacy.title);
  await page.goto(`${demo.address}/addons/device`);
  await look('device', (texts) => texts.device.title);
  await page.goto(`${demo.address}/addons/success`);
  await look('success-bare', (texts) => texts.error.no_sign_in.title);
  await page.goto(`${demo.address}/addons/error`);
  await look('error-bare', (texts) => texts.error.no_sign_in.title);
  await page.goto(`${demo.address}/addons/transit/?transit_token=${'x'.repeat(43)}`);
  await look('link-wrong', (texts) => texts.error.bad_request.title);
  await page.goto(`${demo.address}/api/v1.0/callback/?state=x&code=y`);
  await look('meet-callback', (texts) => texts.error.wrong_browser.title);
  for (const name of ERRORS) {
    await page.goto(`${demo.address}/addons/error?error=${name}&reference=BCDF-GHJK`);
    await look(`error-${name}`, (texts) => texts.error[name].title);
  }
}

describe('every page', { concurrency: 2 }, () => {
  for (const language of LANGUAGES) {
    test(`in ${language}, with its buttons in sight in a small window, and no sideways scrolling on a phone`, async () => {
      const context = await browser.newContext({ locale: language, bypassCSP: true, viewport: SMALL });
      const page = await context.newPage();
      const text = texts[language];
      await walk(page, async (name, title) => {
        assert.equal(await page.getAttribute('html', 'lang'), language, name);
        const main = await page.innerText('main');
        assert.ok(main.includes(title(text)), `${name}: "${title(text)}" in ${main}`);
        for (const other of LANGUAGES.filter((each) => each !== language && title(texts[each]) !== title(text))) {
          assert.ok(!main.includes(title(texts[other])), `${name} is not in ${other}`);
        }
        assert.ok((await page.title()).length > 5, name);
        for (const button of await page.locator('main button:visible').all()) {
          const { y, height } = await button.boundingBox();
          assert.ok(y >= 0 && y + height <= SMALL.height, `${name}: "${await button.textContent()}" ends at ${y + height}`);
        }
        assert.equal(await overflow(page), 0, `${name} in a small window`);
        await page.setViewportSize(PHONE);
        assert.equal(await overflow(page), 0, `${name} on a phone`);
        await page.setViewportSize(SMALL);
      });
      await context.close();
    });
  }

  for (const colorScheme of ['light', 'dark']) {
    test(`passes axe, ${colorScheme}`, async () => {
      const context = await browser.newContext({ colorScheme, bypassCSP: true, viewport: SMALL });
      const page = await context.newPage();
      await walk(page, async (name) => assert.deepEqual(await violations(page), [], name));
      await context.close();
    });
  }

  test('holds what axe does not look at: text spacing, zoom, targets, focus, titles', async () => {
    const context = await browser.newContext({ bypassCSP: true, viewport: SMALL, reducedMotion: 'reduce' });
    const page = await context.newPage();
    const titles = new Map();
    await walk(page, async (name, title) => {
      // 1.4.4, 1.4.10: 200 % of 1280 × 800, and 400 %.
      for (const size of [{ width: 640, height: 400 }, { width: 320, height: 200 }]) {
        await page.setViewportSize(size);
        assert.equal(await overflow(page), 0, `${name} at ${size.width}`);
      }
      // 1.4.12, with the values of the criterion.
      const spacing = await page.addStyleTag({ content: '* { line-height: 1.5 !important; letter-spacing: .12em !important; word-spacing: .16em !important; } p { margin-bottom: 2em !important; }' });
      const cut = () => page.evaluate(() => [...document.querySelectorAll('main :not(svg *, input)')].filter((element) => element.checkVisibility({ visibilityProperty: true })
        && element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).display !== 'inline').map((element) => element.outerHTML.slice(0, 80)));
      for (const size of [PHONE, SMALL]) {
        await page.setViewportSize(size);
        assert.equal(await overflow(page), 0, `${name} with text spacing at ${size.width}`);
        assert.deepEqual(await cut(), [], `${name} with text spacing at ${size.width}`);
      }
      await spacing.evaluate((style) => style.remove());
      // 2.5.8: 24 × 24 px, except links within text.
      for (const target of await page.locator('main :is(button, input:not([type=hidden])):visible').all()) {
        const { width, height } = await target.boundingBox();
        assert.ok(width >= 24 && height >= 24, `${name}: ${width} × ${height}`);
      }
      // 2.4.3, 2.4.7: Tab goes through all of them in the order of the source, each with an outline.
      const wanted = await page.evaluate(() => {
        document.body.tabIndex = -1;
        document.body.focus();
        const all = [...document.querySelectorAll('main :is(a[href], button:enabled, input:not([type=hidden]))')].filter((element) => element.checkVisibility({ visibilityProperty: true }));
        all.forEach((element, index) => { element.dataset.index = index; });
        return all.length;
      });
      for (let index = 0; index < wanted; index += 1) {
        await page.keyboard.press('Tab');
        const focus = await page.evaluate(() => {
          const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
          return [document.activeElement.dataset.index, outlineStyle, parseFloat(outlineWidth) >= 2];
        });
        assert.deepEqual(focus, [String(index), 'solid', true], `${name}, ${index}`);
      }
      // 2.3.3: nothing moves where the person wishes so.
      assert.ok(await page.evaluate(() => document.getAnimations().every(({ animationName }) => animationName === 'appear')), name);
      // 2.4.2: one title for one page. `walk` shows the page without a way before its script would.
      const text = title(texts.en);
      if (name !== 'stuck') {
        assert.equal(titles.get(await page.title()) ?? text, text, name);
        titles.set(await page.title(), text);
      }
      // 3.1.1, and nothing says another direction.
      assert.deepEqual(await page.evaluate(() => [document.documentElement.lang, getComputedStyle(document.documentElement).direction]), ['en', 'ltr'], name);
    });
    assert.ok(titles.size > 20, `${titles.size}`);
    await context.close();
  });

  test('keeps its buttons, its field and its marks in forced colours', async () => {
    const context = await browser.newContext({ bypassCSP: true, viewport: SMALL, forcedColors: 'active' });
    const page = await context.newPage();
    await walk(page, async (name) => {
      for (const target of await page.locator('main :is(button, input:not([type=hidden])):visible').all()) {
        const [style, width] = await target.evaluate((element) => [getComputedStyle(element).borderStyle, getComputedStyle(element).borderWidth]);
        assert.ok(style === 'solid' && parseFloat(width) >= 1, `${name}: ${style} ${width}`);
      }
    });
    await context.close();
  });

  if (process.env.SCREENSHOTS) {
    const wanted = LANGUAGES.flatMap((locale) => ['light', 'dark'].map((colorScheme) => [locale, colorScheme]));
    for (const [locale, colorScheme] of wanted.slice(0, process.env.SCREENSHOTS === 'all' ? undefined : 2)) {
      test(`photographed, ${locale}, ${colorScheme}`, async () => {
        mkdirSync(`${SCREENSHOTS}pages/${locale}`, { recursive: true });
        const context = await browser.newContext({ locale, colorScheme, bypassCSP: true, viewport: SMALL });
        const page = await context.newPage();
        await walk(page, async (name) => {
          for (const size of SIZES) {
            await page.setViewportSize(size);
            await page.screenshot({ path: `${SCREENSHOTS}pages/${locale}/${name}-${size.width}-${colorScheme}.png` });
          }
          await page.setViewportSize(SMALL);
        });
        await context.close();
      });
    }
  }
});

describe('the page of the code', () => {
  const open = async (options) => {
    const session = await create(demo, { bind: true, client_name: 'Notes' });
    const context = await browser.newContext(options);
    const page = await context.newPage();
    await page.goto(session.transit_url);
    await page.waitForSelector('#user-code:visible');
    return { context, page, session };
  };

  for (const [how, change] of [
    ['as it is shown', (code) => code],
    ['in lower case', (code) => code.toLowerCase()],
    ['without the dash', (code) => code.replace('-', '')],
    ['with spaces around and within', (code) => `  ${code.replace('-', ' ').toLowerCase()} \n`],
    ['with a dash of another kind', (code) => code.replace('-', '\u2013')],
  ]) {
    test(`takes a code pasted ${how}`, async () => {
      const { context, page, session } = await open({ permissions: ['clipboard-read', 'clipboard-write'] });
      assert.equal(await page.evaluate(() => document.activeElement.id), 'user-code', 'the field has the focus');
      await page.evaluate((text) => navigator.clipboard.writeText(text), change(session.user_code));
      await page.keyboard.press('ControlOrMeta+V');
      await page.keyboard.press('Enter');
      await page.waitForSelector('input[name=username]');
      await context.close();
    });
  }

  test('is read out: a region with its heading, a field with label, warning and error', async () => {
    const { context, page } = await open({ viewport: PHONE });
    const region = page.getByRole('region', { name: texts.en.proof.code_title });
    const field = region.getByRole('textbox', { name: texts.en.proof.code_label });
    assert.equal(await field.count(), 1);
    assert.match(await page.title(), new RegExp(`^${texts.en.proof.code_title}`));
    assert.equal(await page.getByRole('heading', { level: 1 }).count(), 1, 'one heading is there at a time');
    await field.fill('BBBB-BBBB');
    // Forth from the field to both buttons by keyboard.
    for (const name of [texts.en.proof.code_button, texts.en.not_me_button]) {
      await page.keyboard.press('Tab');
      assert.equal(await page.evaluate(() => document.activeElement.textContent), name);
    }
    await field.press('Enter');
    await page.waitForSelector('#wrong');
    assert.equal(await page.getAttribute('#user-code', 'aria-invalid'), 'true');
    const described = await page.evaluate(() => document.getElementById('user-code').getAttribute('aria-describedby').split(' ').map((id) => document.getElementById(id).textContent).join(' '));
    assert.match(described, /not the code.*4 more tries|4 more tries.*/s);
    assert.equal(await page.evaluate(() => document.activeElement.id), 'user-code');
    await context.close();
  });

  // What Chromium hands to a screen reader. None was run.
  test('has a label, an error and a live region in the accessibility tree', async () => {
    const { context, page } = await open({ viewport: SMALL });
    const cdp = await context.newCDPSession(page);
    const tree = async () => {
      const { nodes } = await cdp.send('Accessibility.getFullAXTree');
      return nodes.filter((node) => !node.ignored).map(({ role, name, description, properties = [] }) => ({
        role: role.value, name: name?.value, description: description?.value,
        ...Object.fromEntries(properties.map((property) => [property.name, property.value.value])),
      }));
    };
    const find = (nodes, wanted) => nodes.filter((node) => Object.entries(wanted).every(([key, value]) => node[key] === value));
    const code = { role: 'textbox', name: texts.en.proof.code_label };
    const [asked, ...others] = find(await tree(), code);
    assert.deepEqual(others, [], 'one field');
    assert.equal(asked.focused, true);
    assert.ok(!asked.invalid || asked.invalid === 'false', 'nothing is wrong yet');
    assert.deepEqual(find(await tree(), { role: 'alert' }), [], 'nothing to interrupt for');
    await page.fill('#user-code', 'BBBB-BBBB');
    await page.press('#user-code', 'Enter');
    await page.waitForSelector('#wrong:visible');
    const nodes = await tree();
    const [wrong] = find(nodes, code);
    assert.equal(wrong.invalid, 'true');
    assert.match(wrong.description, /4 more tries/);
    assert.equal(wrong.focused, true);
    const [alert] = find(nodes, { role: 'alert' });
    assert.equal(alert.live, 'assertive');
    assert.equal(alert.atomic, true);
    for (const name of [texts.en.proof.code_button, texts.en.not_me_button]) {
      assert.equal(find(nodes, { role: 'button', name }).length, 1, name);
    }
    assert.equal(find(nodes, { role: 'region', name: texts.en.proof.code_title }).length, 1);
    assert.equal(find(nodes, { role: 'heading', level: 1 }).length, 1);
    await context.close();
  });

  test('needs no scrolling at 478 × 460', async () => {
    const { context, page } = await open({ viewport: SMALL });
    const height = () => page.evaluate(() => document.documentElement.scrollHeight - innerHeight);
    assert.ok(await height() <= 0, `${await height()} px below the edge`);
    await context.close();
  });
});
