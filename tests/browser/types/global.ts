// The script-tag build: a global, no import of a value.
import type {} from 'token-relay/global';

export const token: Promise<string> = tokenRelay.signIn({ clientName: 'Notes' }).then(({ access_token }) => access_token);
export const isOurs = (error: unknown): boolean => error instanceof tokenRelay.SignInError;
