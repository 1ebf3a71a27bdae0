import type { OpenDialog } from './token-relay.js';

export interface OfficeDialogOptions {
  /** Per cent of the screen. Default 35. */
  width?: number | undefined;
  /** Per cent of the screen. Default 60. */
  height?: number | undefined;
  /** Let Office ask before it opens the window, which gets past popup blockers. Default true. */
  promptBeforeOpen?: boolean | undefined;
  /**
   * A page on the domain of the task pane, which gets the address of the sign-in in its fragment,
   * encoded, and continues there. Needed where the relay is on another domain.
   */
  startPage?: string | URL | undefined;
  /**
   * Called with what the dialog's last page reports: `done`, `error`, or `close` for its button; and
   * with what Office reports: `closed` when the person closed the window (12006; a token may still
   * arrive), `unreachable` when a page does not load (12002, 12003). The token never goes this way.
   */
  onStatus?: ((status: 'done' | 'error' | 'close' | 'closed' | 'unreachable') => void) | undefined;
}

/**
 * An `openDialog` that uses `Office.context.ui.displayDialogAsync`, and passes on the proof that the
 * dialog asks for where Office has the requirement set DialogOrigin 1.1.
 * The returned function rejects with `SignInError`: `popup_blocked` (12009, 12011) or
 * `dialog_failed` (everything else); `status` is the Office error number. A dialog that an earlier
 * call left open is closed first, because Office shows one at a time.
 */
export function officeDialog(options?: OfficeDialogOptions): OpenDialog;
