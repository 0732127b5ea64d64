/*
 * Calls that are wrong. Each is refused, and nothing else happens.
 *
 *   misuse HOME          all that C lets a library notice
 *   misuse HOME freed    handles that were freed: noticed as long as nobody has used
 *                        their memory since. C promises nothing there, so the tools
 *                        that watch memory must not see it.
 */
#include "check.h"

#define NULL_ARGUMENT(call) BAD(OOD_CA_STATUS_NULL_ARGUMENT, "null-argument", call)
#define BAD_HANDLE(call) BAD(OOD_CA_STATUS_BAD_HANDLE, "bad-handle", call)
#define BAD_VALUE(call) BAD(OOD_CA_STATUS_BAD_VALUE, "bad-value", call)
#define TOO_LONG(call) BAD(OOD_CA_STATUS_TOO_LONG, "too-long", call)
#define NOT_UTF8(call) BAD(OOD_CA_STATUS_NOT_UTF8, "not-utf8", call)

/* One handle of each kind, and something to fill. */
static ood_ca_open_options where;
static ood_ca_authority *authority;
static ood_ca_issued *issued;
static ood_ca_info *info;
static ood_ca_list *list;
static ood_ca_report *report;
static ood_ca_buffer *buffer;
static ood_ca_certificate_view certificate;
static ood_ca_str host;
static ood_ca_issue_options want;

static void make_all(void)
{
    ood_ca_verify_options ask;
    host = text("n001.cluster.example");
    want = issue_options(&host);
    certificate.size = sizeof certificate;
    GOOD(ood_ca_authority_ensure(&where, &authority, &error));
    GOOD(ood_ca_issue(authority, &want, &issued, &error));
    GOOD(ood_ca_authority_info(authority, &info, &error));
    GOOD(ood_ca_authority_list(authority, 0, &list, &error));
    GOOD(ood_ca_authority_trust(authority, &buffer, &error));
    ask = verify_options(issued_view(issued).certificate, OOD_CA_PURPOSE_SERVER);
    GOOD(ood_ca_verify(authority, &ask, &report, &error));
}

static void free_all(void)
{
    ood_ca_report_free(report);
    ood_ca_buffer_free(buffer);
    ood_ca_list_free(list);
    ood_ca_info_free(info);
    ood_ca_issued_free(issued);
    ood_ca_authority_free(authority);
}

static void nothing_is_given(void)
{
    ood_ca_issued_view issued_got;
    ood_ca_info_view info_got;
    ood_ca_list_view list_got;
    ood_ca_report_view report_got;
    ood_ca_buffer_view buffer_got;
    ood_ca_verify_options ask = verify_options(text(""), OOD_CA_PURPOSE_SERVER);
    ood_ca_issued *fresh;
    ood_ca_info *fresh_info;
    ood_ca_list *fresh_list;
    ood_ca_buffer *fresh_buffer;

    issued_got.size = sizeof issued_got;
    info_got.size = sizeof info_got;
    list_got.size = sizeof list_got;
    report_got.size = sizeof report_got;
    buffer_got.size = sizeof buffer_got;

    NULL_ARGUMENT(ood_ca_authority_open(&where, NULL, &error));
    NULL_ARGUMENT(ood_ca_authority_ensure(&where, NULL, &error));
    NULL_ARGUMENT(ood_ca_info_read(&where, NULL, &error));
    NULL_ARGUMENT(ood_ca_authority_info(NULL, &fresh_info, &error));
    NULL_ARGUMENT(ood_ca_authority_info(authority, NULL, &error));
    NULL_ARGUMENT(ood_ca_authority_trust(NULL, &fresh_buffer, &error));
    NULL_ARGUMENT(ood_ca_authority_trust(authority, NULL, &error));
    NULL_ARGUMENT(ood_ca_authority_list(NULL, 0, &fresh_list, &error));
    NULL_ARGUMENT(ood_ca_authority_list(authority, 0, NULL, &error));
    NULL_ARGUMENT(ood_ca_issue(NULL, &want, &fresh, &error));
    NULL_ARGUMENT(ood_ca_issue(authority, NULL, &fresh, &error));
    NULL_ARGUMENT(ood_ca_issue(authority, &want, NULL, &error));
    NULL_ARGUMENT(ood_ca_sign_csr(NULL, "x", 1, &want, &fresh, &error));
    NULL_ARGUMENT(ood_ca_sign_csr(authority, NULL, 1, &want, &fresh, &error));
    NULL_ARGUMENT(ood_ca_sign_csr(authority, "x", 1, NULL, &fresh, &error));
    NULL_ARGUMENT(ood_ca_sign_csr(authority, "x", 1, &want, NULL, &error));
    NULL_ARGUMENT(ood_ca_renew_if_due(NULL, 0, &fresh, &error));
    NULL_ARGUMENT(ood_ca_renew_if_due(authority, 0, NULL, &error));
    NULL_ARGUMENT(ood_ca_verify(authority, NULL, NULL, &error));
    ask.certificate.len = 1;
    ask.certificate.data = NULL;
    NULL_ARGUMENT(ood_ca_verify(authority, &ask, NULL, &error));
    NULL_ARGUMENT(ood_ca_render(NULL, &fresh_buffer, &error));
    CHECK(fresh == NULL && fresh_info == NULL && fresh_list == NULL && fresh_buffer == NULL);

    NULL_ARGUMENT(ood_ca_issued_get(NULL, &issued_got, &error));
    NULL_ARGUMENT(ood_ca_issued_get(issued, NULL, &error));
    NULL_ARGUMENT(ood_ca_issued_certificate(NULL, &certificate, &error));
    NULL_ARGUMENT(ood_ca_issued_certificate(issued, NULL, &error));
    NULL_ARGUMENT(ood_ca_info_get(NULL, &info_got, &error));
    NULL_ARGUMENT(ood_ca_info_get(info, NULL, &error));
    NULL_ARGUMENT(ood_ca_info_authority(NULL, &certificate, &error));
    NULL_ARGUMENT(ood_ca_info_authority(info, NULL, &error));
    NULL_ARGUMENT(ood_ca_info_client(NULL, &certificate, &error));
    NULL_ARGUMENT(ood_ca_info_client(info, NULL, &error));
    NULL_ARGUMENT(ood_ca_info_trusted(NULL, 0, &certificate, &error));
    NULL_ARGUMENT(ood_ca_info_trusted(info, 0, NULL, &error));
    NULL_ARGUMENT(ood_ca_list_get(NULL, &list_got, &error));
    NULL_ARGUMENT(ood_ca_list_get(list, NULL, &error));
    NULL_ARGUMENT(ood_ca_list_certificate(NULL, 0, &certificate, &error));
    NULL_ARGUMENT(ood_ca_list_certificate(list, 0, NULL, &error));
    NULL_ARGUMENT(ood_ca_report_get(NULL, &report_got, &error));
    NULL_ARGUMENT(ood_ca_report_get(report, NULL, &error));
    NULL_ARGUMENT(ood_ca_report_certificate(NULL, &certificate, &error));
    NULL_ARGUMENT(ood_ca_report_certificate(report, NULL, &error));
    NULL_ARGUMENT(ood_ca_buffer_get(NULL, &buffer_got, &error));
    NULL_ARGUMENT(ood_ca_buffer_get(buffer, NULL, &error));

    /* Nobody wants to know why. */
    CHECK(ood_ca_issue(NULL, &want, &fresh, NULL) == OOD_CA_STATUS_NULL_ARGUMENT);
    CHECK(ood_ca_issue(authority, &want, &fresh, NULL) == OOD_CA_STATUS_OK);
    ood_ca_issued_free(fresh);
    CHECK(ood_ca_verify(NULL, NULL, NULL, NULL) == OOD_CA_STATUS_NULL_ARGUMENT);

    ood_ca_authority_free(NULL);
    ood_ca_issued_free(NULL);
    ood_ca_info_free(NULL);
    ood_ca_list_free(NULL);
    ood_ca_report_free(NULL);
    ood_ca_buffer_free(NULL);
    ood_ca_error_free(NULL);
    CHECK(ood_ca_error_status(NULL) == OOD_CA_STATUS_OK);
    CHECK(ood_ca_error_word(NULL, NULL)[0] == '\0');
    CHECK(ood_ca_error_message(NULL, NULL)[0] == '\0');
    CHECK(ood_ca_error_hint(NULL, NULL)[0] == '\0');
}

static void handles_are_of_another_type(void)
{
    /* Not ours at all, but eight bytes can be read. */
    static const uint64_t stranger[4] = {1, 2, 3, 4};
    ood_ca_issued_view issued_got;
    ood_ca_issued *fresh;
    ood_ca_error *error_of_ours;
    size_t len = 9;

    issued_got.size = sizeof issued_got;
    BAD_HANDLE(ood_ca_issue((const ood_ca_authority *)issued, &want, &fresh, &error));
    BAD_HANDLE(ood_ca_issue((const ood_ca_authority *)stranger, &want, &fresh, &error));
    BAD_HANDLE(ood_ca_issue((const ood_ca_authority *)((const char *)authority + 4), &want, &fresh,
                            &error));
    BAD_HANDLE(ood_ca_issued_get((const ood_ca_issued *)authority, &issued_got, &error));
    BAD_HANDLE(ood_ca_info_authority((const ood_ca_info *)list, &certificate, &error));
    BAD_HANDLE(ood_ca_list_certificate((const ood_ca_list *)info, 0, &certificate, &error));
    BAD_HANDLE(ood_ca_report_certificate((const ood_ca_report *)buffer, &certificate, &error));
    CHECK(fresh == NULL);

    CHECK(ood_ca_issue(NULL, &want, &fresh, &error_of_ours) != OOD_CA_STATUS_OK);
    BAD_HANDLE(ood_ca_issued_get((const ood_ca_issued *)error_of_ours, &issued_got, &error));
    ood_ca_error_free(error_of_ours);
    CHECK(ood_ca_error_status((const ood_ca_error *)authority) == OOD_CA_STATUS_BAD_HANDLE);
    CHECK(ood_ca_error_message((const ood_ca_error *)authority, &len)[0] == '\0' && len == 0);

    /* Not ours, and nothing that could be written to. */
    ood_ca_issued_free((ood_ca_issued *)stranger);
    ood_ca_error_free((ood_ca_error *)stranger);

    /* Freed by the wrong function: left alone, and still good. */
    ood_ca_issued_free((ood_ca_issued *)authority);
    ood_ca_list_free((ood_ca_list *)authority);
    ood_ca_authority_free((ood_ca_authority *)issued);
    ood_ca_error_free((ood_ca_error *)info);
    ood_ca_info_free((ood_ca_info *)((char *)info + 1));
    GOOD(ood_ca_issue(authority, &want, &fresh, &error));
    ood_ca_issued_free(fresh);
}

static void texts_are_wrong(void)
{
    static char long_text[70000];
    static const char latin1[] = "n\xfc.example", cut[] = "n\xe2\x82", nul[] = "n001\0.example";
    ood_ca_verify_options ask = verify_options(text("x"), OOD_CA_PURPOSE_SERVER);
    ood_ca_open_options other = where;
    ood_ca_issued *fresh;
    ood_ca_authority *fresh_authority;
    ood_ca_str many[3];

    memset(long_text, 'a', sizeof long_text - 1);
    many[0] = many[1] = many[2] = host;
    want.hosts = many;
    want.hosts_len = 3;
    many[2] = text(latin1);
    NOT_UTF8(ood_ca_issue(authority, &want, &fresh, &error));
    many[2] = text(cut);
    NOT_UTF8(ood_ca_issue(authority, &want, &fresh, &error));
    many[2].data = nul;
    many[2].len = sizeof nul - 1;
    BAD_VALUE(ood_ca_issue(authority, &want, &fresh, &error));
    many[2] = text(long_text);
    TOO_LONG(ood_ca_issue(authority, &want, &fresh, &error));
    many[2].len = (size_t)-1;
    TOO_LONG(ood_ca_issue(authority, &want, &fresh, &error));
    many[2].len = 300;
    BAD(OOD_CA_STATUS_BAD_NAME, "bad-name", ood_ca_issue(authority, &want, &fresh, &error));
    many[2] = text("");
    BAD(OOD_CA_STATUS_BAD_NAME, "bad-name", ood_ca_issue(authority, &want, &fresh, &error));
    many[2] = text("n001;rm -rf /");
    BAD(OOD_CA_STATUS_BAD_NAME, "bad-name", ood_ca_issue(authority, &want, &fresh, &error));
    many[2].data = NULL;
    many[2].len = 4;
    NULL_ARGUMENT(ood_ca_issue(authority, &want, &fresh, &error));
    want.hosts_len = (size_t)-1 / sizeof host;
    TOO_LONG(ood_ca_issue(authority, &want, &fresh, &error));
    want.hosts_len = (size_t)-1;
    TOO_LONG(ood_ca_issue(authority, &want, &fresh, &error));
    want.hosts = NULL;
    NULL_ARGUMENT(ood_ca_issue(authority, &want, &fresh, &error));
    want = issue_options(&host);
    many[0] = text("10.0.0.5/24");
    want.ips = many;
    want.ips_len = 1;
    BAD(OOD_CA_STATUS_BAD_NAME, "bad-name", ood_ca_issue(authority, &want, &fresh, &error));
    want = issue_options(&host);

    TOO_LONG(ood_ca_sign_csr(authority, long_text, sizeof long_text, &want, &fresh, &error));
    TOO_LONG(ood_ca_sign_csr(authority, "x", (size_t)-1, &want, &fresh, &error));
    ask.certificate = text(long_text);
    TOO_LONG(ood_ca_verify(authority, &ask, NULL, &error));
    ask.certificate = text(latin1);
    NOT_UTF8(ood_ca_verify(authority, &ask, NULL, &error));

    other.pki_dir = text(long_text);
    TOO_LONG(ood_ca_authority_ensure(&other, &fresh_authority, &error));
    other.pki_dir = text(latin1);
    NOT_UTF8(ood_ca_authority_ensure(&other, &fresh_authority, &error));
    other.pki_dir.data = "/tmp/a\0b";
    other.pki_dir.len = 8;
    BAD_VALUE(ood_ca_authority_ensure(&other, &fresh_authority, &error));
    other = where;
    other.config = text("/nonexistent/ood_ca.yml");
    BAD(OOD_CA_STATUS_IO, "io", ood_ca_authority_ensure(&other, &fresh_authority, &error));
    CHECK(fresh == NULL && fresh_authority == NULL);
}

static void numbers_are_wrong(void)
{
    ood_ca_verify_options ask = verify_options(text("x"), 7);
    ood_ca_issued *fresh;
    ood_ca_list *fresh_list;

    want.purpose = 2;
    BAD_VALUE(ood_ca_issue(authority, &want, &fresh, &error));
    want.purpose = UINT32_MAX;
    BAD_VALUE(ood_ca_issue(authority, &want, &fresh, &error));
    want.purpose = OOD_CA_PURPOSE_SERVER;
    want.flags = 8;
    BAD_VALUE(ood_ca_issue(authority, &want, &fresh, &error));
    want.flags = UINT32_MAX;
    BAD_VALUE(ood_ca_issue(authority, &want, &fresh, &error));
    want.flags = 0;
    BAD_VALUE(ood_ca_renew_if_due(authority, 2, &fresh, &error));
    BAD_VALUE(ood_ca_authority_list(authority, 2, &fresh_list, &error));
    ask.certificate = issued_view(issued).certificate;
    BAD_VALUE(ood_ca_verify(authority, &ask, NULL, &error));
    ask.purpose = OOD_CA_PURPOSE_SERVER;
    ask.reserved = 1;
    BAD_VALUE(ood_ca_verify(authority, &ask, NULL, &error));

    /* A client has no hosts and no addresses. */
    want.purpose = OOD_CA_PURPOSE_CLIENT;
    BAD(OOD_CA_STATUS_BAD_REQUEST, "bad-request", ood_ca_issue(authority, &want, &fresh, &error));
    want.hosts_len = 0;
    want.flags = OOD_CA_ISSUE_THIS_NODE;
    BAD(OOD_CA_STATUS_BAD_REQUEST, "bad-request", ood_ca_issue(authority, &want, &fresh, &error));
    want.flags = OOD_CA_ISSUE_ANY_HOST;
    BAD(OOD_CA_STATUS_BAD_REQUEST, "bad-request", ood_ca_issue(authority, &want, &fresh, &error));
    want = issue_options(&host);
    CHECK(fresh == NULL && fresh_list == NULL);
}

static void pointers_are_not_aligned(void)
{
    static uint64_t space[64];
    char *odd = (char *)space + 1;
    ood_ca_issued *fresh;

    BAD_VALUE(ood_ca_issue(authority, (const ood_ca_issue_options *)odd, &fresh, &error));
    BAD_VALUE(ood_ca_issue(authority, &want, (ood_ca_issued **)odd, &error));
    BAD_VALUE(ood_ca_issued_certificate(issued, (ood_ca_certificate_view *)odd, &error));
    want.hosts = (const ood_ca_str *)odd;
    BAD_VALUE(ood_ca_issue(authority, &want, &fresh, &error));
    want = issue_options(&host);
    CHECK(ood_ca_issue(NULL, &want, &fresh, (ood_ca_error **)odd) == OOD_CA_STATUS_NULL_ARGUMENT);
    CHECK(ood_ca_error_word(NULL, (size_t *)odd)[0] == '\0');
}

static void freed(void)
{
    ood_ca_issued_view issued_got;
    ood_ca_issued *fresh;

    issued_got.size = sizeof issued_got;
    ood_ca_issued_free(issued);
    BAD_HANDLE(ood_ca_issued_get(issued, &issued_got, &error));
    ood_ca_issued_free(issued);
    ood_ca_authority_free(authority);
    BAD_HANDLE(ood_ca_issue(authority, &want, &fresh, &error));
    ood_ca_authority_free(authority);
    ood_ca_info_free(info);
    BAD_HANDLE(ood_ca_info_authority(info, &certificate, &error));
    ood_ca_info_free(info);
    ood_ca_list_free(list);
    BAD_HANDLE(ood_ca_list_certificate(list, 0, &certificate, &error));
    ood_ca_list_free(list);
    ood_ca_report_free(report);
    BAD_HANDLE(ood_ca_report_certificate(report, &certificate, &error));
    ood_ca_report_free(report);
    ood_ca_buffer_free(buffer);
    ood_ca_buffer_free(buffer);
}

int main(int argc, char **argv)
{
    static char pki_dir[4096], config[4096];

    CHECK(argc == 2 || argc == 3);
    snprintf(pki_dir, sizeof pki_dir, "%s/.ood/pki", argv[1]);
    snprintf(config, sizeof config, "%s/ood_ca.yml", argv[1]);
    where = open_options(pki_dir, config);
    make_all();
    if (argc == 3) {
        freed();
        return done();
    }
    nothing_is_given();
    handles_are_of_another_type();
    texts_are_wrong();
    numbers_are_wrong();
    pointers_are_not_aligned();
    free_all();
    return done();
}
