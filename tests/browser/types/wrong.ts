// Mistakes that the types must find.
import { signIn, meetExchange, waitForToken } from 'token-relay';
import { officeDialog } from 'token-relay/office';

void signIn({ transport: 'carrier pigeon' }); // refused
void signIn({ baseUrl: 8080 }); // refused
void signIn({ onProgress: ({ reason }) => reason }); // refused
void signIn({ openDialog: 'popup' }); // refused
void signIn().then((token) => token.access_token.toFixed()); // refused
void meetExchange({ transitToken: 'a' }); // refused
void waitForToken(); // refused
officeDialog({ onStatus: (status: 'other') => status }); // refused
