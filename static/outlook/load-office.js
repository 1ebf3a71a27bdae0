// Loads Office.js: inside Office from where Microsoft wants it to come from, in a plain browser the
// stub beside this file. An add-in of your own needs only the script tag of Office.js.
const HOSTED = 'https://appsforoffice.microsoft.com/lib/1/hosted/office.js';

// Office says so in the address of the task pane, and to the page around it on old desktops.
export const insideOffice = /[?&#]_host_Info=/i.test(location.search + location.hash)
  || typeof globalThis.external?.GetContext === 'function';

/** Resolves with `{ host, platform }` when Office is ready. */
export function loadOffice() {
  return new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = insideOffice ? HOSTED : new URL('office-stub.js', import.meta.url).href;
    script.onload = () => globalThis.Office.onReady(resolve);
    script.onerror = () => reject(new Error('Office.js could not be loaded.'));
    document.head.append(script);
  });
}
