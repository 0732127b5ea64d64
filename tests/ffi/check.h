/*
 * What the C tests share. Each program says what it checked or, at the first
 * check that fails, where and why, and exits with 1. They are C99 that is also
 * C++11, because both compile the header.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ood_ca.h>

static int checks;

#define CHECK(condition)                                                        \
    do {                                                                        \
        checks++;                                                               \
        if (!(condition)) {                                                     \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                            \
        }                                                                       \
    } while (0)

/* GOOD(call with &error as its last argument): the call must work. */
#define GOOD(call)                                                              \
    do {                                                                        \
        ood_ca_error *error;                                                    \
        ood_ca_status status;                                                   \
        /* Whatever is in the place is overwritten. */                          \
        memset(&error, 0x5a, sizeof error);                                     \
        status = (call);                                                        \
        checks++;                                                               \
        if (status != OOD_CA_STATUS_OK) {                                       \
            fprintf(stderr, "%s:%d: %s: status %u: %s\n", __FILE__, __LINE__,   \
                    #call, (unsigned)status, ood_ca_error_message(error, NULL)); \
            exit(1);                                                            \
        }                                                                       \
        CHECK(error == NULL);                                                   \
    } while (0)

/* BAD(status, word, call with &error): the call must fail in exactly this way. */
#define BAD(expected, word, call)                                               \
    do {                                                                        \
        ood_ca_error *error;                                                    \
        ood_ca_status status;                                                   \
        memset(&error, 0x5a, sizeof error);                                     \
        status = (call);                                                        \
        checks++;                                                               \
        if (status != (expected)) {                                             \
            fprintf(stderr, "%s:%d: %s: status %u: %s\n", __FILE__, __LINE__,   \
                    #call, (unsigned)status,                                    \
                    status == OOD_CA_STATUS_OK ? "" : ood_ca_error_message(error, NULL)); \
            exit(1);                                                            \
        }                                                                       \
        check_error(error, expected, word);                                     \
        ood_ca_error_free(error);                                               \
    } while (0)

static inline ood_ca_str text(const char *from)
{
    ood_ca_str view;
    view.data = from;
    view.len = strlen(from);
    return view;
}

static inline int same(ood_ca_str view, const char *expected)
{
    return view.len == strlen(expected) && strcmp(view.data, expected) == 0;
}

static inline int same_text(ood_ca_str one, ood_ca_str other)
{
    return one.len == other.len && memcmp(one.data, other.data, one.len) == 0;
}

/* Bounded, counted and ended by a NUL. */
static inline int whole(ood_ca_str view)
{
    return view.data != NULL && strlen(view.data) == view.len;
}

static inline void check_error(const ood_ca_error *error, ood_ca_status status, const char *word)
{
    size_t message = 0, hint = 0, word_len = 0;
    CHECK(error != NULL);
    CHECK(ood_ca_error_status(error) == status);
    CHECK(strcmp(ood_ca_error_word(error, &word_len), word) == 0);
    CHECK(word_len == strlen(word));
    CHECK(strlen(ood_ca_error_message(error, &message)) == message && message > 0);
    CHECK(strlen(ood_ca_error_hint(error, &hint)) == hint);
    CHECK(strstr(ood_ca_error_message(error, NULL), "-----BEGIN") == NULL);
    CHECK(strstr(ood_ca_error_hint(error, NULL), "-----BEGIN") == NULL);
}

static inline ood_ca_open_options open_options(const char *pki_dir, const char *config)
{
    ood_ca_open_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.pki_dir = text(pki_dir);
    options.config = text(config);
    return options;
}

static inline ood_ca_issue_options issue_options(const ood_ca_str *host)
{
    ood_ca_issue_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.hosts = host;
    options.hosts_len = host == NULL ? 0 : 1;
    return options;
}

static inline ood_ca_issued_view issued_view(const ood_ca_issued *issued)
{
    ood_ca_issued_view view;
    memset(&view, 0x5a, sizeof view);
    view.size = sizeof view;
    GOOD(ood_ca_issued_get(issued, &view, &error));
    CHECK(view.size == sizeof view);
    CHECK(whole(view.key) && whole(view.certificate) && whole(view.trust));
    return view;
}

static inline ood_ca_certificate_view issued_certificate(const ood_ca_issued *issued)
{
    ood_ca_certificate_view view;
    memset(&view, 0x5a, sizeof view);
    view.size = sizeof view;
    GOOD(ood_ca_issued_certificate(issued, &view, &error));
    CHECK(whole(view.serial) && whole(view.fingerprint) && whole(view.pem));
    return view;
}

static inline ood_ca_buffer_view buffer_view(const ood_ca_buffer *buffer)
{
    ood_ca_buffer_view view;
    memset(&view, 0x5a, sizeof view);
    view.size = sizeof view;
    GOOD(ood_ca_buffer_get(buffer, &view, &error));
    CHECK(whole(view.text));
    return view;
}

static inline ood_ca_verify_options verify_options(ood_ca_str certificate, uint32_t purpose)
{
    ood_ca_verify_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.certificate = certificate;
    options.purpose = purpose;
    return options;
}

static inline int done(void)
{
    printf("%d checks\n", checks);
    return 0;
}

#endif
