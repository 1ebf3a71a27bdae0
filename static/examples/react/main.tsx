import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { App } from './App';

// `?relay=https://relay.example` says where the relay is; it must list this page in ALLOWED_ORIGINS.
const relay = new URLSearchParams(location.search).get('relay') ?? 'http://127.0.0.1:8080';
const root = document.getElementById('root');
if (root) createRoot(root).render(<StrictMode><App relay={relay} /></StrictMode>);
