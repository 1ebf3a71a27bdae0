// Mistakes that the types must find.
import { resumeSignIn, signIn, SignInError, meetExchange, waitForToken } from 'token-relay';
import { officeDialog } from 'token-relay/office';

void signIn({ transport: 'carrier pigeon' }); // refused
void signIn({ baseUrl: 8080 }); // refused
void signIn({ onProgress: ({ reason }) => reason }); // refused
void signIn({ openDialog: 'popup' }); // refused
void signIn().then((token) => token.access_token.toFixed()); // refused
void signIn().then((token) => token.acces_token); // refused
void signIn().catch((error: SignInError) => error.code === 'exipred'); // refused
void signIn({ prompt: 'none' }); // refused
void signIn({ client_id: 'notes' }); // refused
void resumeSignIn().then((token) => token.access_token); // refused
new SignInError('closed'); // refused
void meetExchange({ transitToken: 'a' }); // refused
void waitForToken(); // refused
officeDialog({ onStatus: (status: 'other') => status }); // refused
