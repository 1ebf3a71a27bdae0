// The plug-in beside Figma's document. It opens the browser and keeps the token, which its page, without an
// origin of its own, can not.
interface Token {
  access_token: string;
  /** Milliseconds since the Unix epoch. */
  expires_at: number;
}

type FromPage =
  | { type: 'ready' }
  | { type: 'open'; url: string }
  | { type: 'signed-in'; token: Token }
  | { type: 'sign-out' };

const KEY = 'token-relay';

figma.showUI(__html__, { width: 320, height: 300 });

figma.ui.onmessage = async (message: FromPage) => {
  switch (message.type) {
    case 'ready': {
      const token: Token | undefined = await figma.clientStorage.getAsync(KEY);
      figma.ui.postMessage({ type: 'token', token: token && token.expires_at > Date.now() ? token : undefined });
      break;
    }
    case 'open':
      figma.openExternal(message.url);
      break;
    case 'signed-in':
      await figma.clientStorage.setAsync(KEY, message.token);
      break;
    case 'sign-out':
      await figma.clientStorage.deleteAsync(KEY);
      break;
  }
};
