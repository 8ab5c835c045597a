/*
 * A child process that connects on our behalf, for reconnect=.
 *
 * In its sandbox the process can make no socket and sees neither the file system nor the network.
 * The child, forked before, can; it knows one address and does nothing but connect to it when asked
 * and hand over the descriptor. It ends with its parent.
 */
#ifndef REVIRT_CHARDEV_CONNECTOR_H
#define REVIRT_CHARDEV_CONNECTOR_H

struct address;
struct error;

/* The descriptor to ask by, or -1. While the process has one thread. */
int connector_start(const struct address *address, struct error **err);
/* Asks for a connection; the answer makes the descriptor readable. */
void connector_ask(int fd);
/* Takes the answer: a connected socket, or -1 and errno. */
int connector_answer(int fd);

#endif
