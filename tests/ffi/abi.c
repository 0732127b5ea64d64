/*
 * Every function, as it is meant to be called.
 *
 *   abi HOME
 *
 * HOME holds ood_ca.yml, resolv.conf and request.pem; HOME/.ood/pki is made.
 */
#include <time.h>

#include "check.h"

static char pki_dir[4096], config[4096], file[4096];
static const char *home;

static const char *path(const char *name)
{
    snprintf(file, sizeof file, "%s/%s", home, name);
    return file;
}

static void versions(void)
{
    CHECK(strcmp(ood_ca_version(), OOD_CA_VERSION) == 0);
    CHECK(ood_ca_abi_version() == ((uint32_t)OOD_CA_ABI_MAJOR << 16 | OOD_CA_ABI_MINOR));
}

static ood_ca_authority *nothing_then_one(void)
{
    ood_ca_open_options where = open_options(pki_dir, config);
    ood_ca_authority *authority, *again;
    ood_ca_info *info;

    memset(&authority, 0x5a, sizeof authority);
    BAD(OOD_CA_STATUS_NO_AUTHORITY, "no-authority",
        ood_ca_authority_open(&where, &authority, &error));
    CHECK(authority == NULL);
    BAD(OOD_CA_STATUS_NO_AUTHORITY, "no-authority", ood_ca_info_read(&where, &info, &error));
    CHECK(info == NULL);
    GOOD(ood_ca_authority_ensure(&where, &authority, &error));
    CHECK(authority != NULL);
    GOOD(ood_ca_authority_open(&where, &again, &error));
    ood_ca_authority_free(again);
    GOOD(ood_ca_authority_ensure(&where, &again, &error));
    ood_ca_authority_free(again);
    return authority;
}

static void check_certificate(const ood_ca_certificate_view *view, uint32_t kind)
{
    int64_t now = (int64_t)time(NULL);
    CHECK(view->kind == kind && view->reserved == 0);
    CHECK(view->not_before <= now && now <= view->not_after);
    CHECK(view->serial.len == 32 && whole(view->serial));
    CHECK(strspn(view->serial.data, "0123456789abcdef") == 32);
    CHECK(view->fingerprint.len == 64 && whole(view->fingerprint));
    CHECK(whole(view->subject) && view->subject.len > 0);
    CHECK(whole(view->issuer) && view->issuer.len > 0);
    CHECK(same(view->key_type, "ecdsa-p256"));
    CHECK(strncmp(view->pem.data, "-----BEGIN CERTIFICATE-----\n", 28) == 0);
    CHECK(view->names != NULL && view->addresses != NULL);
}

static void what_is_known(const ood_ca_authority *authority)
{
    ood_ca_open_options where = open_options(pki_dir, config);
    ood_ca_certificate_view signer, client, trusted;
    ood_ca_info_view view;
    ood_ca_info *info, *read;

    GOOD(ood_ca_authority_info(authority, &info, &error));
    memset(&view, 0x5a, sizeof view);
    view.size = sizeof view;
    GOOD(ood_ca_info_get(info, &view, &error));
    CHECK(same(view.pki_dir, pki_dir));
    CHECK(view.phase == OOD_CA_PHASE_SETTLED && view.expired == 0 && view.trusted_len == 1);
    CHECK(view.has_client == 1 && view.client_due == 0);
    CHECK(view.client_due_at > (int64_t)time(NULL) + 20 * 86400);
    CHECK(strncmp(view.client_reason.data, "not due before 2", 16) == 0);
    CHECK(view.leaf_lifetime == 35 * 86400);
    CHECK(view.max_leaf_lifetime >= view.leaf_lifetime);

    signer.size = client.size = trusted.size = sizeof signer;
    GOOD(ood_ca_info_authority(info, &signer, &error));
    check_certificate(&signer, OOD_CA_KIND_AUTHORITY);
    CHECK(signer.not_after > (int64_t)time(NULL) + 9 * 365 * (int64_t)86400);
    GOOD(ood_ca_info_client(info, &client, &error));
    check_certificate(&client, OOD_CA_KIND_CLIENT);
    CHECK(same_text(client.issuer, signer.subject));
    GOOD(ood_ca_info_trusted(info, 0, &trusted, &error));
    CHECK(same_text(trusted.fingerprint, signer.fingerprint));
    BAD(OOD_CA_STATUS_OUT_OF_RANGE, "out-of-range",
        ood_ca_info_trusted(info, 1, &trusted, &error));
    BAD(OOD_CA_STATUS_OUT_OF_RANGE, "out-of-range",
        ood_ca_info_trusted(info, (size_t)-1, &trusted, &error));

    GOOD(ood_ca_info_read(&where, &read, &error));
    GOOD(ood_ca_info_authority(read, &trusted, &error));
    CHECK(same_text(trusted.fingerprint, signer.fingerprint));
    ood_ca_info_free(read);
    ood_ca_info_free(info);
}

static void a_server_leaf(const ood_ca_authority *authority)
{
    /* Of the second only its first four letters: no NUL has to follow. */
    ood_ca_str hosts[2] = {{"n001.cluster.example", 20}, {"n001;rm -rf /", 4}};
    ood_ca_str ip = text("10.0.0.5");
    ood_ca_issue_options want = issue_options(hosts);
    ood_ca_certificate_view certificate;
    ood_ca_issued_view view;
    ood_ca_buffer *trust;
    ood_ca_issued *issued;

    want.hosts_len = 2;
    want.ips = &ip;
    want.ips_len = 1;
    want.ttl = 3600;
    GOOD(ood_ca_issue(authority, &want, &issued, &error));
    view = issued_view(issued);
    CHECK(strncmp(view.key.data, "-----BEGIN PRIVATE KEY-----\n", 28) == 0);
    CHECK(view.recorded == 1 && view.reserved == 0 && view.notices_len == 0);
    certificate = issued_certificate(issued);
    check_certificate(&certificate, OOD_CA_KIND_SERVER);
    CHECK(same_text(certificate.pem, view.certificate));
    CHECK(certificate.names_len == 3 && certificate.addresses_len == 1);
    CHECK(same(certificate.names[0], "n001.cluster.example"));
    CHECK(same(certificate.names[1], "n001"));
    CHECK(same(certificate.names[2], "10-0-0-5.ip.ood.internal"));
    CHECK(same(certificate.addresses[0], "10.0.0.5"));
    CHECK(certificate.not_after <= (int64_t)time(NULL) + 3600);
    CHECK(certificate.not_after >= (int64_t)time(NULL) + 3500);

    GOOD(ood_ca_authority_trust(authority, &trust, &error));
    CHECK(same_text(buffer_view(trust).text, view.trust));
    CHECK(buffer_view(trust).notices_len == 0);
    ood_ca_buffer_free(trust);
    ood_ca_issued_free(issued);
}

static size_t recorded(const ood_ca_authority *authority, uint32_t flags)
{
    ood_ca_list_view view;
    ood_ca_list *list;
    GOOD(ood_ca_authority_list(authority, flags, &list, &error));
    view.size = sizeof view;
    GOOD(ood_ca_list_get(list, &view, &error));
    ood_ca_list_free(list);
    return view.len;
}

static void other_leaves(const ood_ca_authority *authority)
{
    ood_ca_issue_options want = issue_options(NULL);
    ood_ca_certificate_view certificate;
    ood_ca_issued *issued;
    size_t before = recorded(authority, 0);

    BAD(OOD_CA_STATUS_BAD_REQUEST, "bad-request", ood_ca_issue(authority, &want, &issued, &error));
    CHECK(issued == NULL);

    want.flags = OOD_CA_ISSUE_ANY_HOST | OOD_CA_ISSUE_IN_MEMORY;
    GOOD(ood_ca_issue(authority, &want, &issued, &error));
    CHECK(issued_view(issued).recorded == 0);
    certificate = issued_certificate(issued);
    CHECK(certificate.names_len == 1 && same(certificate.names[0], "server.ood.internal"));
    ood_ca_issued_free(issued);
    CHECK(recorded(authority, 0) == before);

    want.flags = OOD_CA_ISSUE_THIS_NODE;
    GOOD(ood_ca_issue(authority, &want, &issued, &error));
    CHECK(issued_certificate(issued).names_len >= 1);
    ood_ca_issued_free(issued);

    /* A hundred years: the site shortens it and says so. */
    want.flags = OOD_CA_ISSUE_ANY_HOST;
    want.ttl = (uint64_t)100 * 365 * 86400;
    GOOD(ood_ca_issue(authority, &want, &issued, &error));
    CHECK(issued_view(issued).notices_len >= 1);
    CHECK(whole(issued_view(issued).notices[0]));
    CHECK(strstr(issued_view(issued).notices[0].data, "shortened") != NULL);
    ood_ca_issued_free(issued);
    want.ttl = 59;
    BAD(OOD_CA_STATUS_BAD_TTL, "bad-ttl", ood_ca_issue(authority, &want, &issued, &error));
    want.ttl = UINT64_MAX;
    BAD(OOD_CA_STATUS_BAD_TTL, "bad-ttl", ood_ca_issue(authority, &want, &issued, &error));

    want = issue_options(NULL);
    want.purpose = OOD_CA_PURPOSE_CLIENT;
    GOOD(ood_ca_issue(authority, &want, &issued, &error));
    certificate = issued_certificate(issued);
    check_certificate(&certificate, OOD_CA_KIND_CLIENT);
    CHECK(certificate.names_len == 0 && certificate.addresses_len == 0);
    ood_ca_issued_free(issued);
}

static void a_request(const ood_ca_authority *authority)
{
    static char csr[16384];
    ood_ca_str host = text("n002.cluster.example");
    ood_ca_issue_options want = issue_options(&host);
    ood_ca_certificate_view certificate;
    ood_ca_issued *issued;
    FILE *from = fopen(path("request.pem"), "rb");
    size_t len;

    CHECK(from != NULL);
    len = fread(csr, 1, sizeof csr, from);
    fclose(from);
    GOOD(ood_ca_sign_csr(authority, csr, len, &want, &issued, &error));
    CHECK(issued_view(issued).key.len == 0);
    certificate = issued_certificate(issued);
    CHECK(certificate.names_len == 1 && same(certificate.names[0], "n002.cluster.example"));
    ood_ca_issued_free(issued);

    /* One letter of it changed. */
    csr[len / 2] = csr[len / 2] == 'A' ? 'B' : 'A';
    BAD(OOD_CA_STATUS_BAD_CSR, "bad-csr",
        ood_ca_sign_csr(authority, csr, len, &want, &issued, &error));
    BAD(OOD_CA_STATUS_BAD_CSR, "bad-csr",
        ood_ca_sign_csr(authority, NULL, 0, &want, &issued, &error));
}

static void renewal(const ood_ca_authority *authority)
{
    ood_ca_certificate_view renewed, client;
    ood_ca_issued *issued;
    ood_ca_info *info;

    memset(&issued, 0x5a, sizeof issued);
    GOOD(ood_ca_renew_if_due(authority, 0, &issued, &error));
    CHECK(issued == NULL);
    GOOD(ood_ca_renew_if_due(authority, OOD_CA_RENEW_ANYWAY, &issued, &error));
    CHECK(issued != NULL);
    CHECK(issued_view(issued).key.len == 0 && issued_view(issued).recorded == 1);
    renewed = issued_certificate(issued);
    GOOD(ood_ca_authority_info(authority, &info, &error));
    client.size = sizeof client;
    GOOD(ood_ca_info_client(info, &client, &error));
    CHECK(same_text(client.fingerprint, renewed.fingerprint));
    ood_ca_info_free(info);
    ood_ca_issued_free(issued);
}

static void the_record(const ood_ca_authority *authority)
{
    ood_ca_certificate_view certificate;
    ood_ca_list_view view;
    ood_ca_list *list;
    FILE *junk = fopen(path(".ood/pki/issued/junk.crt"), "w");
    int64_t last = 0;
    size_t i;

    CHECK(junk != NULL);
    fputs("junk\n", junk);
    fclose(junk);
    GOOD(ood_ca_authority_list(authority, 0, &list, &error));
    view.size = sizeof view;
    GOOD(ood_ca_list_get(list, &view, &error));
    /* The authority, its first client leaf, and what was issued above. */
    CHECK(view.len == 8);
    CHECK(view.unreadable_len == 1 && same(view.unreadable[0], "junk.crt"));
    for (i = 0; i < view.len; i++) {
        certificate.size = sizeof certificate;
        GOOD(ood_ca_list_certificate(list, i, &certificate, &error));
        CHECK(certificate.not_after >= last);
        last = certificate.not_after;
    }
    check_certificate(&certificate, OOD_CA_KIND_AUTHORITY);
    BAD(OOD_CA_STATUS_OUT_OF_RANGE, "out-of-range",
        ood_ca_list_certificate(list, view.len, &certificate, &error));
    ood_ca_list_free(list);
    CHECK(recorded(authority, OOD_CA_LIST_ALIVE) == view.len);
}

static void verification(const ood_ca_authority *authority)
{
    ood_ca_str host = text("n001.cluster.example");
    ood_ca_issue_options want = issue_options(&host);
    ood_ca_verify_options ask;
    ood_ca_certificate_view certificate;
    ood_ca_issued_view view, other_view;
    ood_ca_issued *issued, *other;
    ood_ca_report_view said;
    ood_ca_report *report;

    GOOD(ood_ca_issue(authority, &want, &issued, &error));
    GOOD(ood_ca_issue(authority, &want, &other, &error));
    view = issued_view(issued);
    other_view = issued_view(other);
    ask = verify_options(view.certificate, OOD_CA_PURPOSE_SERVER);
    GOOD(ood_ca_verify(authority, &ask, NULL, &error));
    ask.peer = host;
    ask.key = view.key;
    GOOD(ood_ca_verify(authority, &ask, &report, &error));
    memset(&said, 0x5a, sizeof said);
    said.size = sizeof said;
    GOOD(ood_ca_report_get(report, &said, &error));
    CHECK(said.valid == 1 && said.reserved == 0 && said.reason.len == 0 && whole(said.reason));
    certificate.size = sizeof certificate;
    GOOD(ood_ca_report_certificate(report, &certificate, &error));
    CHECK(same_text(certificate.pem, view.certificate));
    ood_ca_report_free(report);

    /* Who says whom to trust needs no authority. */
    ask.trust = view.trust;
    GOOD(ood_ca_verify(NULL, &ask, NULL, &error));
    ask.trust = text("");
    BAD(OOD_CA_STATUS_NULL_ARGUMENT, "null-argument", ood_ca_verify(NULL, &ask, NULL, &error));
    ask.trust = view.certificate;
    BAD(OOD_CA_STATUS_UNREADABLE, "not-an-authority", ood_ca_verify(NULL, &ask, NULL, &error));
    ask.trust = text("x");
    BAD(OOD_CA_STATUS_UNREADABLE, "bad-certificate", ood_ca_verify(NULL, &ask, NULL, &error));
    ask.trust = text("");

    /* Wrong purpose, host, key, time. The report says so too. */
    ask.purpose = OOD_CA_PURPOSE_CLIENT;
    BAD(OOD_CA_STATUS_NOT_TRUSTED, "not-trusted",
        ood_ca_verify(authority, &ask, &report, &error));
    CHECK(report != NULL);
    GOOD(ood_ca_report_get(report, &said, &error));
    CHECK(said.valid == 0);
    CHECK(same(said.reason, "it is a server leaf and may not act as a client"));
    ood_ca_report_free(report);
    BAD(OOD_CA_STATUS_NOT_TRUSTED, "not-trusted", ood_ca_verify(authority, &ask, NULL, &error));
    ask.purpose = OOD_CA_PURPOSE_SERVER;
    ask.peer = text("n002.cluster.example");
    BAD(OOD_CA_STATUS_NOT_TRUSTED, "not-trusted", ood_ca_verify(authority, &ask, NULL, &error));
    ask.peer = text("10.0.0.9");
    BAD(OOD_CA_STATUS_NOT_TRUSTED, "not-trusted", ood_ca_verify(authority, &ask, NULL, &error));
    ask.peer = text("n001;");
    BAD(OOD_CA_STATUS_BAD_NAME, "bad-name", ood_ca_verify(authority, &ask, &report, &error));
    CHECK(report == NULL);
    ask.peer = host;
    ask.key = other_view.key;
    BAD(OOD_CA_STATUS_NOT_TRUSTED, "not-trusted", ood_ca_verify(authority, &ask, NULL, &error));
    ask.key = view.certificate;
    BAD(OOD_CA_STATUS_UNREADABLE, "bad-key", ood_ca_verify(authority, &ask, NULL, &error));
    ask.key = view.key;
    ask.at = (int64_t)time(NULL) + 36 * 86400;
    BAD(OOD_CA_STATUS_NOT_TRUSTED, "not-trusted", ood_ca_verify(authority, &ask, NULL, &error));
    ask.at = INT64_MIN;
    BAD(OOD_CA_STATUS_BAD_VALUE, "bad-value", ood_ca_verify(authority, &ask, NULL, &error));
    ask.at = 0;
    ask.certificate = text("");
    BAD(OOD_CA_STATUS_UNREADABLE, "bad-certificate",
        ood_ca_verify(authority, &ask, NULL, &error));
    ood_ca_issued_free(other);
    ood_ca_issued_free(issued);
}

static void rendering(void)
{
    char resolv_conf[4096];
    ood_ca_render_options ask;
    ood_ca_buffer *snippet;

    snprintf(resolv_conf, sizeof resolv_conf, "%s/resolv.conf", home);
    memset(&ask, 0, sizeof ask);
    ask.size = sizeof ask;
    ask.nginx_version = text("1.22.1");
    ask.user = text("alice");
    ask.home = text("/home/alice");
    ask.config = text(config);
    ask.resolv_conf = text(resolv_conf);
    GOOD(ood_ca_render(&ask, &snippet, &error));
    CHECK(strstr(buffer_view(snippet).text.data, "location ^~ /pun/proxy/") != NULL);
    CHECK(strstr(buffer_view(snippet).text.data, "/home/alice/.ood/pki") != NULL);
    /* The second name server of the file cannot be used. */
    CHECK(buffer_view(snippet).notices_len == 1);
    CHECK(strstr(buffer_view(snippet).notices[0].data, "left out") != NULL);
    ood_ca_buffer_free(snippet);
    ask.nginx_version = text("nginx version: nginx/1.28.0 (Ubuntu)");
    GOOD(ood_ca_render(&ask, &snippet, &error));
    CHECK(strstr(buffer_view(snippet).text.data, "proxy_ssl_certificate_cache") != NULL);
    ood_ca_buffer_free(snippet);

    ask.nginx_version = text("");
    BAD(OOD_CA_STATUS_UNSAFE_VALUE, "unsafe-value", ood_ca_render(&ask, &snippet, &error));
    CHECK(snippet == NULL);
    ask.nginx_version = text("1.22.1");
    ask.home = text("/home/$alice");
    BAD(OOD_CA_STATUS_UNSAFE_VALUE, "unsafe-value", ood_ca_render(&ask, &snippet, &error));
    ask.home = text("/home/alice");
    ask.user = text("alice;");
    BAD(OOD_CA_STATUS_BAD_NAME, "bad-name", ood_ca_render(&ask, &snippet, &error));
    ask.user = text("alice");
    ask.config = text(path("none.yml"));
    BAD(OOD_CA_STATUS_IO, "io", ood_ca_render(&ask, &snippet, &error));
    ask.config = text(path("wrong.yml"));
    BAD(OOD_CA_STATUS_CONFIG, "config", ood_ca_render(&ask, &snippet, &error));
}

/* A program that was compiled against another version of the header. */
static void structs_that_grow(const ood_ca_authority *authority)
{
    struct { ood_ca_issue_options known; uint64_t later; } want;
    struct { ood_ca_issued_view known; uint64_t later; } view;
    ood_ca_issue_options shorter = issue_options(NULL);
    ood_ca_issued_view short_view;
    ood_ca_issued *issued;

    memset(&want, 0, sizeof want);
    want.known = issue_options(NULL);
    want.known.size = sizeof want;
    want.known.flags = OOD_CA_ISSUE_ANY_HOST;
    GOOD(ood_ca_issue(authority, &want.known, &issued, &error));
    memset(&view, 0x5a, sizeof view);
    view.known.size = sizeof view;
    GOOD(ood_ca_issued_get(issued, &view.known, &error));
    CHECK(view.known.size == sizeof view && view.known.recorded == 1 && view.later == 0);
    short_view.size = sizeof short_view - 1;
    BAD(OOD_CA_STATUS_BAD_SIZE, "bad-size", ood_ca_issued_get(issued, &short_view, &error));
    ood_ca_issued_free(issued);

    want.later = 1;
    BAD(OOD_CA_STATUS_BAD_SIZE, "bad-size",
        ood_ca_issue(authority, &want.known, &issued, &error));
    shorter.flags = OOD_CA_ISSUE_ANY_HOST;
    shorter.size = sizeof shorter - 1;
    BAD(OOD_CA_STATUS_BAD_SIZE, "bad-size", ood_ca_issue(authority, &shorter, &issued, &error));
    shorter.size = 0;
    BAD(OOD_CA_STATUS_BAD_SIZE, "bad-size", ood_ca_issue(authority, &shorter, &issued, &error));
    shorter.size = (size_t)-1;
    BAD(OOD_CA_STATUS_BAD_SIZE, "bad-size", ood_ca_issue(authority, &shorter, &issued, &error));
}

int main(int argc, char **argv)
{
    ood_ca_authority *authority;

    CHECK(argc == 2);
    home = argv[1];
    snprintf(pki_dir, sizeof pki_dir, "%s/.ood/pki", home);
    snprintf(config, sizeof config, "%s/ood_ca.yml", home);
    versions();
    authority = nothing_then_one();
    what_is_known(authority);
    a_server_leaf(authority);
    other_leaves(authority);
    a_request(authority);
    renewal(authority);
    the_record(authority);
    verification(authority);
    rendering();
    structs_that_grow(authority);
    ood_ca_authority_free(authority);
    return done();
}
