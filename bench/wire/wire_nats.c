/*
 * NATS request-reply: slaves are a queue group, a master's inbox is the reply
 * subject. NATS pushes: a slave may be sent many jobs while it has one.
 */
#include "load.h"

static void begin(struct connection *connection) {
    buffer_append_text(&connection->out, "CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":false,"
                                         "\"lang\":\"c\",\"version\":\"1\",\"protocol\":1}\r\n");
    if (connection->role == SLAVE)
        buffer_append_text(&connection->out, "SUB jobs slaves 1\r\n");
    else
        append_format(&connection->out, "SUB _INBOX.%d 1\r\n", connection->master->number);
    buffer_append_text(&connection->out, "PING\r\n");
}

static void submit(struct master *master, uint64_t job) {
    struct buffer *out = &master->sends->out;
    append_format(out, "PUB jobs _INBOX.%d %zu\r\n", master->number, body_length);
    append_body(out, master, job);
    buffer_append(out, "\r\n", 2);
    master->accepted++; /* NATS says nothing */
}

/* MSG <subject> <sid> [<reply to>] <bytes> */
static size_t message(struct connection *connection, const char *data, size_t line, size_t length) {
    char reply_to[64];
    size_t bytes;
    bool is_slave = connection->role == SLAVE;
    if (is_slave ? sscanf(line_text(data, line), "MSG %*s 1 %63s %zu", reply_to, &bytes) != 2
                 : sscanf(line_text(data, line), "MSG %*s 1 %zu", &bytes) != 1)
        unexpected(connection, "was not expected", data, line);
    if (length < line + bytes + 2)
        return 0;
    if (is_slave) {
        append_format(&connection->out, "PUB %s %zu\r\n", reply_to, bytes);
        buffer_append(&connection->out, data + line, bytes + 2);
    } else
        was_answered(connection, data + line, bytes);
    return line + bytes + 2;
}

static size_t read_message(struct connection *connection, const char *data, size_t length) {
    size_t line = line_length(data, length);
    if (line == 0)
        return 0;
    if (starts_with(data, line, "MSG "))
        return message(connection, data, line, length);
    if (starts_with(data, line, "PONG"))
        is_ready(connection);
    else if (starts_with(data, line, "PING"))
        buffer_append_text(&connection->out, "PONG\r\n");
    else if (!starts_with(data, line, "INFO "))
        unexpected(connection, "was not expected", data, line);
    return line;
}

const struct wire nats_wire = {"nats", false, false, begin, submit, read_message};
