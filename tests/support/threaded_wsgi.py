"""A WSGI server with a thread for each request and without a log."""

import socketserver
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server


class Threaded(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def server(port, application):
    return make_server("127.0.0.1", port, application, Threaded, Quiet)
