// Office opens a dialog only on the domain of the add-in, so it begins here: on to the relay, and nowhere
// else.
import { RELAY } from './config.js';

const url = new URL(decodeURIComponent(location.hash.slice(1)));
// Office's own parameter: the relay knows by it that its pages must stay in touch with the pane.
const host = new URLSearchParams(location.search).get('_host_Info');
if (host) url.searchParams.set('_host_Info', host);
if (url.origin === new URL(RELAY).origin) location.replace(url);
