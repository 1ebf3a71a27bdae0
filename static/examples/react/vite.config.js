import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

export default defineConfig({
  plugins: [react()],
  // The relay knows the add-in by this origin.
  server: { host: '127.0.0.1', port: 3000, strictPort: true },
});
