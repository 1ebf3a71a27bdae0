// Office opens a dialog only on the domain of the add-in, so it begins here: on to the relay, and nowhere
// else.
import { RELAY } from './config.js';

const url = new URL(decodeURIComponent(location.hash.slice(1)));
if (url.origin === new URL(RELAY).origin) location.replace(url);
