/*
 * beanstalkd, which has no answers: a master puts jobs into the tube "jobs",
 * the name of its own tube before the body, and a slave puts the answer there.
 *
 * A connection that waits in `reserve` does nothing else, so a master has two.
 * On the one that hears it keeps some reserves on the way, as a slave cannot:
 * that has one job at a time.
 */
#include "load.h"

enum { RESERVES_ON_THE_WAY = 8 };

static void begin(struct connection *connection) {
    if (connection->role == MASTER)
        buffer_append_text(&connection->out, "use jobs\r\n");
    else if (connection->role == SLAVE)
        buffer_append_text(&connection->out, "watch jobs\r\nignore default\r\n");
    else
        append_format(&connection->out, "watch r%d\r\nignore default\r\n", connection->master->number);
}

static void watches(struct connection *connection) {
    int reserves = connection->role == SLAVE ? 1 : window < RESERVES_ON_THE_WAY ? window : RESERVES_ON_THE_WAY;
    if (++connection->step < 2)
        return;
    while (reserves--)
        buffer_append_text(&connection->out, "reserve\r\n");
    is_ready(connection);
}

/* put: priority, delay, seconds to run, bytes */
static void submit(struct master *master, uint64_t job) {
    struct buffer *out = &master->sends->out;
    char tube[16];
    int length = snprintf(tube, sizeof tube, "r%d ", master->number);
    append_format(out, "put 0 0 600 %zu\r\n%s", (size_t)length + body_length, tube);
    append_body(out, master, job);
    buffer_append(out, "\r\n", 2);
}

static void answer(struct connection *slave, unsigned long id, const char *data, size_t length) {
    const char *space = memchr(data, ' ', length);
    size_t body = space ? length - (size_t)(space + 1 - data) : 0;
    if (!space || space - data >= (int)sizeof slave->text)
        unexpected(slave, "is no job", data, length);
    if (strncmp(slave->text, data, (size_t)(space - data)) || slave->text[space - data]) {
        snprintf(slave->text, sizeof slave->text, "%.*s", (int)(space - data), data);
        append_format(&slave->out, "use %s\r\n", slave->text);
    }
    append_format(&slave->out, "put 0 0 600 %zu\r\n", body);
    buffer_append(&slave->out, space + 1, body);
    append_format(&slave->out, "\r\ndelete %lu\r\nreserve\r\n", id);
}

static size_t reserved(struct connection *connection, const char *data, size_t line, size_t length) {
    unsigned long id;
    size_t bytes;
    if (sscanf(line_text(data, line), "RESERVED %lu %zu", &id, &bytes) != 2)
        unexpected(connection, "is no job", data, line);
    if (length < line + bytes + 2)
        return 0;
    if (connection->role == SLAVE)
        answer(connection, id, data + line, bytes);
    else {
        was_answered(connection, data + line, bytes);
        append_format(&connection->out, "delete %lu\r\nreserve\r\n", id);
    }
    return line + bytes + 2;
}

static size_t read_message(struct connection *connection, const char *data, size_t length) {
    size_t line = line_length(data, length);
    if (line == 0)
        return 0;
    if (starts_with(data, line, "RESERVED "))
        return reserved(connection, data, line, length);
    if (starts_with(data, line, "INSERTED ")) {
        if (connection->role == MASTER)
            was_accepted(connection);
    } else if (starts_with(data, line, "WATCHING "))
        watches(connection);
    else if (starts_with(data, line, "USING jobs\r\n"))
        is_ready(connection);
    else if (!starts_with(data, line, "USING ") && !starts_with(data, line, "DELETED\r\n"))
        unexpected(connection, "was not expected", data, line);
    return line;
}

const struct wire beanstalkd_wire = {"beanstalkd", true, false, begin, submit, read_message};
