import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { App } from './App.js';

const relay = import.meta.env['VITE_RELAY'] ?? 'http://127.0.0.1:8080';
const root = document.getElementById('root');
if (root) createRoot(root).render(<StrictMode><App relay={relay} /></StrictMode>);
