import type { OpenDialog } from './token-relay.js';

export interface OfficeDialogOptions {
  /** Per cent of the screen. Default 35. */
  width?: number;
  /** Per cent of the screen. Default 60. */
  height?: number;
  /** Let Office ask before it opens the window, which gets past popup blockers. Default true. */
  promptBeforeOpen?: boolean;
  /** Told what the dialog's last page reports. The token itself never goes this way. */
  onStatus?: (status: 'done' | 'error' | 'close') => void;
}

/**
 * An `openDialog` that uses `Office.context.ui.displayDialogAsync`.
 * The returned function rejects with `SignInError`: `popup_blocked` (12009, 12011) or
 * `dialog_failed` (everything else); `status` is the Office error number.
 */
export function officeDialog(options?: OfficeDialogOptions): OpenDialog;
