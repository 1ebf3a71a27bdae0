// A React hook that signs a person in through token-relay. React 18 or later.
import { useCallback, useEffect, useReducer, useRef } from 'react';
import { resumeSignIn, signIn as begin, SignInError } from 'token-relay';
import type { Progress, SignInOptions, Token } from 'token-relay';

export type SignInState =
  | { status: 'signed-out' }
  /** `userCode` is there while the window may ask for it. */
  | { status: 'signing-in'; userCode?: string | undefined; dialogClosed: boolean }
  | { status: 'signed-in'; token: Token }
  | { status: 'failed'; error: SignInError };

/** The options of `signIn` without those that the hook sets itself. */
export type TokenRelayOptions = Omit<SignInOptions, 'signal' | 'onProgress'>;

export interface TokenRelay {
  state: SignInState;
  /** Call it within the click: it opens the window at once. */
  signIn: () => void;
  /** Ends the session at the relay as well. */
  cancel: () => void;
  /** Forgets the token. It stays valid until it expires or is revoked. */
  signOut: () => void;
}

type Action = SignInState | { status: 'code'; userCode: string | undefined } | { status: 'dialog-closed' };

function reduce(state: SignInState, action: Action): SignInState {
  switch (action.status) {
    case 'code':
      return state.status === 'signing-in' ? { ...state, userCode: action.userCode } : state;
    case 'dialog-closed':
      return state.status === 'signing-in' ? { ...state, dialogClosed: true } : state;
    default:
      return action;
  }
}

export function useTokenRelay(options: TokenRelayOptions): TokenRelay {
  const [state, dispatch] = useReducer(reduce, { status: 'signed-out' });
  const running = useRef<AbortController | undefined>(undefined);
  const latest = useRef(options);
  useEffect(() => { latest.current = options; });

  // `start` gets what every attempt needs, and resolves with the token, if there is one to come.
  const attempt = useCallback((start: (common: Pick<SignInOptions, 'signal' | 'onProgress'>) => Promise<Token | undefined>) => {
    running.current?.abort();
    const current = new AbortController();
    running.current = current;
    // An attempt that was replaced or cancelled changes nothing any more.
    const update = (action: Action) => {
      if (running.current === current) dispatch(action);
    };
    const onProgress = (progress: Progress) => {
      if (progress.step === 'creating' || progress.step === 'created') update({ status: 'signing-in', dialogClosed: false });
      if (progress.step === 'code') update({ status: 'code', userCode: progress.userCode });
      if (progress.step === 'proved') update({ status: 'code', userCode: undefined });
      if (progress.step === 'dialog-closed') update({ status: 'dialog-closed' });
    };
    start({ signal: current.signal, onProgress }).then(
      (token) => update(token ? { status: 'signed-in', token } : { status: 'signed-out' }),
      (error: unknown) => {
        const known = error instanceof SignInError ? error : new SignInError('server_error', String(error));
        update(known.code === 'aborted' ? { status: 'signed-out' } : { status: 'failed', error: known });
      },
    );
  }, []);

  const cancel = useCallback(() => running.current?.abort(), []);
  const signIn = useCallback(() => attempt((common) => begin({ ...latest.current, ...common })), [attempt]);
  const signOut = useCallback(() => {
    running.current = undefined;
    dispatch({ status: 'signed-out' });
  }, []);

  // A sign-in that the page began before it was reloaded.
  useEffect(() => {
    const timer = setTimeout(() => {
      const { baseUrl, clientId } = latest.current;
      attempt((common) => resumeSignIn({ ...common, ...(baseUrl && { baseUrl }), ...(clientId && { clientId }) }));
    });
    return () => {
      clearTimeout(timer);
      // A component that goes away must not leave a session waiting.
      cancel();
    };
  }, [attempt, cancel]);

  return { state, signIn, cancel, signOut };
}
