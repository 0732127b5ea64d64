/*
 * libood_ca: a user's certificate authority for Open OnDemand.
 *
 * Every function that can fail returns a status and takes, as its last argument,
 * a place for an error object, which may be NULL. Where it fails, that place
 * receives an object that the caller frees with ood_ca_error_free; otherwise NULL.
 * What was in the place before is overwritten, not freed. Places for handles
 * are overwritten the same way, and hold NULL after a failure.
 *
 * Each handle has one owner, the caller, who frees it once, with the function
 * named after it. What a handle shows (pointers in a view) lives as long as the
 * handle. Every struct of options or for a view begins with its size, which the
 * caller sets to sizeof; set the rest of a struct of options to zero first.
 *
 * Text is UTF-8 with its length. Times are seconds since 1970 (UTC).
 *
 * One ood_ca_authority may be used by any number of threads at once. All other
 * handles do not change after they are made, and may be read by any number of
 * threads. No handle may be freed while another thread uses it. All of them may
 * be used, and freed, in a process that was forked while they existed.
 */


#ifndef OOD_CA_H
#define OOD_CA_H

/* Made from ffi/src by cbindgen: change it there, then run scripts/header. */

#include <stddef.h>
#include <stdint.h>

/* The library that this header belongs to. */
#define OOD_CA_VERSION "0.1.0"
#define OOD_CA_VERSION_MAJOR 0
#define OOD_CA_VERSION_MINOR 1
#define OOD_CA_VERSION_PATCH 0


/**
 * The ABI that this header describes: the number in the name of the shared
 * library, `libood_ca.so.0`. Another one is another library.
 */
#define OOD_CA_ABI_MAJOR 0

/**
 * Counts what was added to that ABI since. A program runs with any library whose
 * major number is its own and whose minor number is at least its own.
 */
#define OOD_CA_ABI_MINOR 1

/**
 * `ood_ca_issue_options.flags`: the leaf names no host and counts only at sites
 * that set `verify_host: user`.
 */
#define OOD_CA_ISSUE_ANY_HOST 1

/**
 * `ood_ca_issue_options.flags`: the leaf names the machine that this runs on, as
 * `ood-ca issue` does when it is told no host.
 */
#define OOD_CA_ISSUE_THIS_NODE 2

/**
 * `ood_ca_issue_options.flags`: the leaf is not entered in the record of what was
 * issued; nothing is written. For a short life: a rotation waits for the end of
 * recorded leaves only.
 */
#define OOD_CA_ISSUE_IN_MEMORY 4

/**
 * `ood_ca_renew_if_due`: renew though it is not due.
 */
#define OOD_CA_RENEW_ANYWAY 1

/**
 * `ood_ca_authority_list`: leave out certificates that are past their end.
 */
#define OOD_CA_LIST_ALIVE 1

/**
 * How a call ended. The hundreds say what kind of thing went wrong; a number
 * is never used again for something else, so the gaps may be filled and what
 * is gone stays reserved. Expect numbers that are not listed here: a newer
 * library may have them.
 */
enum ood_ca_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * It worked.
     */
    OOD_CA_STATUS_OK = 0,
    /**
     * An argument that must not be NULL is NULL.
     */
    OOD_CA_STATUS_NULL_ARGUMENT = 100,
    /**
     * A handle is of another type, or was freed.
     */
    OOD_CA_STATUS_BAD_HANDLE = 101,
    /**
     * A text or a list is longer than it can sensibly be.
     */
    OOD_CA_STATUS_TOO_LONG = 102,
    /**
     * A text is not UTF-8.
     */
    OOD_CA_STATUS_NOT_UTF8 = 103,
    /**
     * The `size` of a struct is not one that this library knows.
     */
    OOD_CA_STATUS_BAD_SIZE = 104,
    /**
     * A number, flag or pointer has a value without a meaning.
     */
    OOD_CA_STATUS_BAD_VALUE = 105,
    /**
     * There is nothing at this index.
     */
    OOD_CA_STATUS_OUT_OF_RANGE = 106,
    /**
     * A host name, address or user name cannot be used.
     */
    OOD_CA_STATUS_BAD_NAME = 110,
    /**
     * A lifetime is too short or too long.
     */
    OOD_CA_STATUS_BAD_TTL = 111,
    /**
     * There is no authority in the PKI directory.
     */
    OOD_CA_STATUS_NO_AUTHORITY = 200,
    /**
     * A file or directory has an owner, mode or type that is not safe.
     */
    OOD_CA_STATUS_UNSAFE_PATH = 201,
    /**
     * The operating system refused an operation.
     */
    OOD_CA_STATUS_IO = 202,
    /**
     * Space or quota has run out.
     */
    OOD_CA_STATUS_NO_SPACE = 203,
    /**
     * The site's configuration is wrong.
     */
    OOD_CA_STATUS_CONFIG = 204,
    /**
     * The user's home directory is not known.
     */
    OOD_CA_STATUS_NO_HOME = 205,
    /**
     * A file of the PKI directory is not the certificate it should be.
     */
    OOD_CA_STATUS_BAD_CERTIFICATE = 206,
    /**
     * A file of the PKI directory is not the private key it should be.
     */
    OOD_CA_STATUS_BAD_KEY = 207,
    /**
     * A private key and a certificate of the PKI directory are not a pair.
     */
    OOD_CA_STATUS_KEY_MISMATCH = 208,
    /**
     * A certificate of the PKI directory is not an authority of ours.
     */
    OOD_CA_STATUS_NOT_AN_AUTHORITY = 209,
    /**
     * The authority is past its end.
     */
    OOD_CA_STATUS_AUTHORITY_EXPIRED = 210,
    /**
     * The authority is not valid yet: a clock is wrong.
     */
    OOD_CA_STATUS_AUTHORITY_NOT_YET_VALID = 211,
    /**
     * A rotation step may not be taken now.
     */
    OOD_CA_STATUS_ROTATION = 212,
    /**
     * What was asked for breaks a rule of the profile or of the site.
     */
    OOD_CA_STATUS_BAD_REQUEST = 300,
    /**
     * The certificate signing request cannot be used.
     */
    OOD_CA_STATUS_BAD_CSR = 301,
    /**
     * The certificate is not to be trusted; the message says why.
     */
    OOD_CA_STATUS_NOT_TRUSTED = 400,
    /**
     * What was to be verified, or verified with, cannot be read.
     */
    OOD_CA_STATUS_UNREADABLE = 401,
    /**
     * A value may not stand in nginx configuration.
     */
    OOD_CA_STATUS_UNSAFE_VALUE = 500,
    /**
     * A rendered configuration did not pass our own check.
     */
    OOD_CA_STATUS_SNIPPET = 501,
    /**
     * A template does not fit its values: a bug.
     */
    OOD_CA_STATUS_TEMPLATE = 502,
    /**
     * Host names cannot be looked up with what was found.
     */
    OOD_CA_STATUS_RESOLVER = 503,
    /**
     * A bug in this library; it was stopped before it reached the caller.
     */
    OOD_CA_STATUS_INTERNAL = 900,
    /**
     * Randomness or a signature failed; nothing that the caller did.
     */
    OOD_CA_STATUS_CRYPTO = 901,
    /**
     * An error that has no number of its own yet; its word says which.
     */
    OOD_CA_STATUS_OTHER = 902,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ood_ca_status ood_ca_status;
#else
typedef uint32_t ood_ca_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a leaf is for: `ood_ca_issue_options.purpose`, `ood_ca_verify_options.purpose`.
 */
enum ood_ca_purpose
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Answers TLS connections: a job's.
     */
    OOD_CA_PURPOSE_SERVER = 0,
    /**
     * Makes TLS connections: the user's web server's.
     */
    OOD_CA_PURPOSE_CLIENT = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ood_ca_purpose ood_ca_purpose;
#else
typedef uint32_t ood_ca_purpose;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a certificate may be used for: `ood_ca_certificate_view.kind`.
 */
enum ood_ca_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Signs others.
     */
    OOD_CA_KIND_AUTHORITY = 0,
    /**
     * Answers TLS connections and does nothing else.
     */
    OOD_CA_KIND_SERVER = 1,
    /**
     * Makes TLS connections and does nothing else.
     */
    OOD_CA_KIND_CLIENT = 2,
    /**
     * Anything else: not a certificate of this project.
     */
    OOD_CA_KIND_FOREIGN = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ood_ca_kind ood_ca_kind;
#else
typedef uint32_t ood_ca_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How far a rotation has come: `ood_ca_info_view.phase`.
 */
enum ood_ca_phase
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * None is under way: the signer alone is trusted.
     */
    OOD_CA_PHASE_SETTLED = 0,
    /**
     * The next authority is trusted but does not sign yet.
     */
    OOD_CA_PHASE_PREPARED = 1,
    /**
     * The new authority signs and the old one is still trusted.
     */
    OOD_CA_PHASE_ACTIVATED = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ood_ca_phase ood_ca_phase;
#else
typedef uint32_t ood_ca_phase;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A user's certificate authority. Any number of threads may use one at once,
 * and processes that were forked while it was open too. It belongs to the
 * caller, who frees it with `ood_ca_authority_free`.
 */
typedef struct ood_ca_authority ood_ca_authority;

/**
 * A text and what is to be said about it. It belongs to the caller, who frees
 * it with `ood_ca_buffer_free`.
 */
typedef struct ood_ca_buffer ood_ca_buffer;

/**
 * What went wrong. It belongs to the caller, who frees it with `ood_ca_error_free`.
 */
typedef struct ood_ca_error ood_ca_error;

/**
 * An authority as its files were when it was asked for. It belongs to the
 * caller, who frees it with `ood_ca_info_free`.
 */
typedef struct ood_ca_info ood_ca_info;

/**
 * A leaf that was just issued, with its key. It belongs to the caller, who frees
 * it with `ood_ca_issued_free`; that wipes the key.
 */
typedef struct ood_ca_issued ood_ca_issued;

/**
 * Certificates that were issued, oldest end first. It belongs to the caller, who
 * frees it with `ood_ca_list_free`.
 */
typedef struct ood_ca_list ood_ca_list;

/**
 * How a verification went. It belongs to the caller, who frees it with
 * `ood_ca_report_free`.
 */
typedef struct ood_ca_report ood_ca_report;

/**
 * `len` bytes of UTF-8 at `data`.
 *
 * Going in, `data` may be NULL if `len` is 0, and no NUL has to follow. Coming
 * out, `data` is never NULL, a NUL follows the `len` bytes and none is among
 * them, and the bytes belong to the handle that they came from.
 */
typedef struct ood_ca_str {
    /**
     * The bytes.
     */
    const char *data;
    /**
     * How many there are.
     */
    size_t len;
} ood_ca_str;

/**
 * Where the authority is and which settings count. NULL in place of it, or
 * zeros behind `size`, mean what the command `ood-ca` does without options.
 */
typedef struct ood_ca_open_options {
    /**
     * `sizeof(ood_ca_open_options)`.
     */
    size_t size;
    /**
     * The PKI directory. Empty: what the site's settings say, or `~/.ood/pki`.
     */
    struct ood_ca_str pki_dir;
    /**
     * The site's settings, a file. Empty: `$OOD_CA_CONFIG` (never for root), or
     * `/etc/ood/config/ood_ca.yml`, which may be missing. They are read when the
     * authority is opened and not again.
     */
    struct ood_ca_str config;
} ood_ca_open_options;

/**
 * What is in a buffer, valid until that is freed.
 */
typedef struct ood_ca_buffer_view {
    /**
     * `sizeof(ood_ca_buffer_view)`, set by the caller.
     */
    size_t size;
    /**
     * The text.
     */
    struct ood_ca_str text;
    /**
     * What an administrator should know though it worked, a line each.
     */
    const struct ood_ca_str *notices;
    /**
     * How many there are.
     */
    size_t notices_len;
} ood_ca_buffer_view;

/**
 * What is known, valid until the handle is freed.
 */
typedef struct ood_ca_info_view {
    /**
     * `sizeof(ood_ca_info_view)`, set by the caller.
     */
    size_t size;
    /**
     * The PKI directory.
     */
    struct ood_ca_str pki_dir;
    /**
     * An `ood_ca_phase`.
     */
    uint32_t phase;
    /**
     * 1 if the authority is past its end, else 0.
     */
    uint32_t expired;
    /**
     * How many authorities are trusted now: see `ood_ca_info_trusted`.
     */
    size_t trusted_len;
    /**
     * 1 if the user's web server has a client leaf: see `ood_ca_info_client`.
     */
    uint32_t has_client;
    /**
     * 1 if that leaf should be renewed now: see `ood_ca_renew_if_due`.
     */
    uint32_t client_due;
    /**
     * From when on that is so, in seconds since 1970 (UTC); 0 where no time decides.
     */
    int64_t client_due_at;
    /**
     * The same in words: `not due before 2026-11-22T10:00:00Z`.
     */
    struct ood_ca_str client_reason;
    /**
     * How long a leaf lives by default, in seconds.
     */
    uint64_t leaf_lifetime;
    /**
     * How long a leaf may live at most, in seconds.
     */
    uint64_t max_leaf_lifetime;
} ood_ca_info_view;

/**
 * A certificate, valid until the handle that it was asked of is freed.
 */
typedef struct ood_ca_certificate_view {
    /**
     * `sizeof(ood_ca_certificate_view)`, set by the caller.
     */
    size_t size;
    /**
     * An `ood_ca_kind`.
     */
    uint32_t kind;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * First second of its life, in seconds since 1970 (UTC).
     */
    int64_t not_before;
    /**
     * Last second of its life, in seconds since 1970 (UTC).
     */
    int64_t not_after;
    /**
     * Its serial number, lower-case hex.
     */
    struct ood_ca_str serial;
    /**
     * The SHA-256 of its DER form, 64 lower-case hex digits.
     */
    struct ood_ca_str fingerprint;
    /**
     * Its subject's common name: the user's name for a client leaf, else random.
     */
    struct ood_ca_str subject;
    /**
     * The subject of the authority that signed it.
     */
    struct ood_ca_str issuer;
    /**
     * `ecdsa-p256`, `ed25519`, or empty for a key that is not ours.
     */
    struct ood_ca_str key_type;
    /**
     * The certificate in PEM.
     */
    struct ood_ca_str pem;
    /**
     * The host names that it is valid for.
     */
    const struct ood_ca_str *names;
    /**
     * How many there are.
     */
    size_t names_len;
    /**
     * The addresses that it is valid for.
     */
    const struct ood_ca_str *addresses;
    /**
     * How many there are.
     */
    size_t addresses_len;
} ood_ca_certificate_view;

/**
 * What leaf is wanted.
 */
typedef struct ood_ca_issue_options {
    /**
     * `sizeof(ood_ca_issue_options)`.
     */
    size_t size;
    /**
     * An `ood_ca_purpose`. A client leaf is for the user who calls, and names no host.
     */
    uint32_t purpose;
    /**
     * The `OOD_CA_ISSUE_` numbers that apply, added up.
     */
    uint32_t flags;
    /**
     * Its lifetime in seconds, at least 60; 0 for the site's default. The site and
     * the authority may shorten it, which a notice then says.
     */
    uint64_t ttl;
    /**
     * Host names that it should be valid for.
     */
    const struct ood_ca_str *hosts;
    /**
     * How many there are.
     */
    size_t hosts_len;
    /**
     * Addresses that it should be valid for, as text.
     */
    const struct ood_ca_str *ips;
    /**
     * How many there are.
     */
    size_t ips_len;
} ood_ca_issue_options;

/**
 * What was issued, valid until the handle is freed.
 */
typedef struct ood_ca_issued_view {
    /**
     * `sizeof(ood_ca_issued_view)`, set by the caller.
     */
    size_t size;
    /**
     * The private key, PKCS#8 in PEM. Empty where this library did not make it.
     * Wipe what you copy from it.
     */
    struct ood_ca_str key;
    /**
     * The certificate in PEM.
     */
    struct ood_ca_str certificate;
    /**
     * Every authority that its bearer should trust, in PEM.
     */
    struct ood_ca_str trust;
    /**
     * 1 if the certificate is in the record of what was issued, else 0.
     */
    uint32_t recorded;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * What the user should know though it worked, a line each.
     */
    const struct ood_ca_str *notices;
    /**
     * How many there are.
     */
    size_t notices_len;
} ood_ca_issued_view;

/**
 * What is in a list, valid until that is freed.
 */
typedef struct ood_ca_list_view {
    /**
     * `sizeof(ood_ca_list_view)`, set by the caller.
     */
    size_t size;
    /**
     * How many certificates there are: see `ood_ca_list_certificate`.
     */
    size_t len;
    /**
     * Files in the record that are no certificates, by name.
     */
    const struct ood_ca_str *unreadable;
    /**
     * How many there are.
     */
    size_t unreadable_len;
} ood_ca_list_view;

/**
 * Whose locations, for which nginx.
 */
typedef struct ood_ca_render_options {
    /**
     * `sizeof(ood_ca_render_options)`.
     */
    size_t size;
    /**
     * The version of the nginx that will read it: `1.22.1`, or the whole line that
     * `nginx -v` prints. Must be given: this library runs no other program.
     */
    struct ood_ca_str nginx_version;
    /**
     * Whose. Empty: the user who calls.
     */
    struct ood_ca_str user;
    /**
     * Their home directory. Empty: what the passwd database says.
     */
    struct ood_ca_str home;
    /**
     * The site's settings, as for `ood_ca_open_options`.
     */
    struct ood_ca_str config;
    /**
     * Where to read the name servers from. Empty: `/etc/resolv.conf`.
     */
    struct ood_ca_str resolv_conf;
} ood_ca_render_options;

/**
 * What is to be verified, and as what.
 */
typedef struct ood_ca_verify_options {
    /**
     * `sizeof(ood_ca_verify_options)`.
     */
    size_t size;
    /**
     * The certificate in PEM.
     */
    struct ood_ca_str certificate;
    /**
     * An `ood_ca_purpose`.
     */
    uint32_t purpose;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * The host name or address that a server must be. Empty: not checked.
     */
    struct ood_ca_str peer;
    /**
     * Who is trusted, in PEM. Empty: whom the authority trusts now.
     */
    struct ood_ca_str trust;
    /**
     * A private key in PEM that must belong to the certificate. Empty: not checked.
     */
    struct ood_ca_str key;
    /**
     * When, in seconds since 1970 (UTC); 0 for now.
     */
    int64_t at;
} ood_ca_verify_options;

/**
 * How it went, valid until the handle is freed.
 */
typedef struct ood_ca_report_view {
    /**
     * `sizeof(ood_ca_report_view)`, set by the caller.
     */
    size_t size;
    /**
     * 1 if the certificate is good for what was asked, else 0.
     */
    uint32_t valid;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * The first check that failed; empty if none did.
     */
    struct ood_ca_str reason;
} ood_ca_report_view;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The ABI of the library that is loaded: `OOD_CA_ABI_MAJOR << 16 | OOD_CA_ABI_MINOR`.
 */
uint32_t ood_ca_abi_version(void);

/**
 * The version of the library that is loaded, as text: `0.1.0`. Never freed.
 */
const char *ood_ca_version(void);

/**
 * Opens the authority and creates nothing. `OOD_CA_STATUS_NO_AUTHORITY` if there
 * is none.
 */
ood_ca_status ood_ca_authority_open(const struct ood_ca_open_options *options,
                                    struct ood_ca_authority **authority,
                                    struct ood_ca_error **error);

/**
 * Opens the authority, and creates it first if there is none. Any number of
 * processes on any number of hosts may do so at once: one authority comes of it.
 */
ood_ca_status ood_ca_authority_ensure(const struct ood_ca_open_options *options,
                                      struct ood_ca_authority **authority,
                                      struct ood_ca_error **error);

/**
 * Every authority to be trusted now, in PEM, the one that signs first. Free it
 * with `ood_ca_buffer_free`.
 */
ood_ca_status ood_ca_authority_trust(const struct ood_ca_authority *authority,
                                     struct ood_ca_buffer **trust,
                                     struct ood_ca_error **error);

/**
 * Frees an authority that no thread uses any more. NULL is fine.
 */
void ood_ca_authority_free(struct ood_ca_authority *authority);

/**
 * Shows what is in a buffer.
 */
ood_ca_status ood_ca_buffer_get(const struct ood_ca_buffer *buffer,
                                struct ood_ca_buffer_view *view,
                                struct ood_ca_error **error);

/**
 * Frees a buffer. NULL is fine.
 */
void ood_ca_buffer_free(struct ood_ca_buffer *buffer);

/**
 * The number of an error, the same that the call returned. `OOD_CA_STATUS_OK`
 * for NULL, `OOD_CA_STATUS_BAD_HANDLE` for what is not an error.
 */
ood_ca_status ood_ca_error_status(const struct ood_ca_error *error);

/**
 * A word for the error, such as `no-authority`, that never changes its meaning.
 * `len`, if not NULL, receives its length. Never NULL; empty for NULL.
 */
const char *ood_ca_error_word(const struct ood_ca_error *error, size_t *len);

/**
 * One line for people, which never holds key material.
 * `len`, if not NULL, receives its length. Never NULL; empty for NULL.
 */
const char *ood_ca_error_message(const struct ood_ca_error *error, size_t *len);

/**
 * What can be done about it; empty where nothing is known.
 * `len`, if not NULL, receives its length. Never NULL; empty for NULL.
 */
const char *ood_ca_error_hint(const struct ood_ca_error *error, size_t *len);

/**
 * Frees an error. NULL is fine.
 */
void ood_ca_error_free(struct ood_ca_error *error);

/**
 * Looks at the files of an open authority. Works when it has expired too.
 */
ood_ca_status ood_ca_authority_info(const struct ood_ca_authority *authority,
                                    struct ood_ca_info **info,
                                    struct ood_ca_error **error);

/**
 * Looks at the files of an authority that need not be opened: an expired one,
 * say, cannot be. Creates nothing.
 */
ood_ca_status ood_ca_info_read(const struct ood_ca_open_options *options,
                               struct ood_ca_info **info,
                               struct ood_ca_error **error);

/**
 * Shows what is known.
 */
ood_ca_status ood_ca_info_get(const struct ood_ca_info *info,
                              struct ood_ca_info_view *view,
                              struct ood_ca_error **error);

/**
 * Shows the certificate of the authority that signs now.
 */
ood_ca_status ood_ca_info_authority(const struct ood_ca_info *info,
                                    struct ood_ca_certificate_view *view,
                                    struct ood_ca_error **error);

/**
 * Shows an authority that is trusted now, counted from 0; the signer is first.
 * `OOD_CA_STATUS_OUT_OF_RANGE` behind the last.
 */
ood_ca_status ood_ca_info_trusted(const struct ood_ca_info *info,
                                  size_t index,
                                  struct ood_ca_certificate_view *view,
                                  struct ood_ca_error **error);

/**
 * Shows the client leaf of the user's web server. `OOD_CA_STATUS_OUT_OF_RANGE`
 * if there is none.
 */
ood_ca_status ood_ca_info_client(const struct ood_ca_info *info,
                                 struct ood_ca_certificate_view *view,
                                 struct ood_ca_error **error);

/**
 * Frees what is known. NULL is fine.
 */
void ood_ca_info_free(struct ood_ca_info *info);

/**
 * Issues a leaf with a key of its own.
 */
ood_ca_status ood_ca_issue(const struct ood_ca_authority *authority,
                           const struct ood_ca_issue_options *options,
                           struct ood_ca_issued **issued,
                           struct ood_ca_error **error);

/**
 * Issues a leaf for the key of a certificate signing request (PKCS#10, PEM or
 * DER). Of the request nothing but the key counts, and its proof of possession:
 * names and lifetime are those of the options.
 */
ood_ca_status ood_ca_sign_csr(const struct ood_ca_authority *authority,
                              const char *csr,
                              size_t csr_len,
                              const struct ood_ca_issue_options *options,
                              struct ood_ca_issued **issued,
                              struct ood_ca_error **error);

/**
 * Renews the client leaf with which the user's web server reaches their jobs, if
 * it is due. `*issued` receives the new leaf (without its key, which stays in the
 * PKI directory), or NULL if nothing was due.
 *
 * When it renews, it also clears the record of what expired more than 400 days ago.
 * `flags`: 0 or `OOD_CA_RENEW_ANYWAY`.
 */
ood_ca_status ood_ca_renew_if_due(const struct ood_ca_authority *authority,
                                  uint32_t flags,
                                  struct ood_ca_issued **issued,
                                  struct ood_ca_error **error);

/**
 * Shows what was issued.
 */
ood_ca_status ood_ca_issued_get(const struct ood_ca_issued *issued,
                                struct ood_ca_issued_view *view,
                                struct ood_ca_error **error);

/**
 * Shows the certificate that was issued.
 */
ood_ca_status ood_ca_issued_certificate(const struct ood_ca_issued *issued,
                                        struct ood_ca_certificate_view *view,
                                        struct ood_ca_error **error);

/**
 * Wipes the key and frees what was issued. NULL is fine.
 */
void ood_ca_issued_free(struct ood_ca_issued *issued);

/**
 * Reads the record of what was issued: authorities, client leaves, jobs' leaves.
 * `flags`: 0 or `OOD_CA_LIST_ALIVE`.
 */
ood_ca_status ood_ca_authority_list(const struct ood_ca_authority *authority,
                                    uint32_t flags,
                                    struct ood_ca_list **list,
                                    struct ood_ca_error **error);

/**
 * Shows how much is in a list.
 */
ood_ca_status ood_ca_list_get(const struct ood_ca_list *list,
                              struct ood_ca_list_view *view,
                              struct ood_ca_error **error);

/**
 * Shows a certificate of a list, counted from 0. `OOD_CA_STATUS_OUT_OF_RANGE`
 * behind the last.
 */
ood_ca_status ood_ca_list_certificate(const struct ood_ca_list *list,
                                      size_t index,
                                      struct ood_ca_certificate_view *view,
                                      struct ood_ca_error **error);

/**
 * Frees a list. NULL is fine.
 */
void ood_ca_list_free(struct ood_ca_list *list);

/**
 * Renders the nginx locations through which a user's web server reaches that
 * user's jobs. They are to be installed by root (`pun-helper hook` does so); this
 * is for showing and comparing. Free the buffer with `ood_ca_buffer_free`.
 */
ood_ca_status ood_ca_render(const struct ood_ca_render_options *options,
                            struct ood_ca_buffer **snippet,
                            struct ood_ca_error **error);

/**
 * Verifies a certificate as a peer would: signed by a trusted authority, in its
 * time, for exactly this purpose, for this host, with this key.
 *
 * `OOD_CA_STATUS_OK` only if it is good; `OOD_CA_STATUS_NOT_TRUSTED` if it is
 * not; another status if that could not be found out. `report`, which may be
 * NULL, receives the details in the first two cases, NULL otherwise.
 * `authority` may be NULL where `options->trust` says whom to trust.
 */
ood_ca_status ood_ca_verify(const struct ood_ca_authority *authority,
                            const struct ood_ca_verify_options *options,
                            struct ood_ca_report **report,
                            struct ood_ca_error **error);

/**
 * Shows how it went.
 */
ood_ca_status ood_ca_report_get(const struct ood_ca_report *report,
                                struct ood_ca_report_view *view,
                                struct ood_ca_error **error);

/**
 * Shows the certificate that was verified.
 */
ood_ca_status ood_ca_report_certificate(const struct ood_ca_report *report,
                                        struct ood_ca_certificate_view *view,
                                        struct ood_ca_error **error);

/**
 * Frees a report. NULL is fine.
 */
void ood_ca_report_free(struct ood_ca_report *report);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* OOD_CA_H */
