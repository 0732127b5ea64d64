/*
 * Opens (or creates) the caller's certificate authority, issues a server leaf for
 * the hosts and addresses on the command line, prints the certificate, and says
 * on standard error until when it is valid.
 *
 *   cc $(pkg-config --cflags ood_ca) issue.c $(pkg-config --libs ood_ca) -o issue
 *   ./issue [--pki-dir DIR] n001.cluster.example 10.0.0.5
 *
 * The key is not printed: a real program would hand it to its TLS library.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <ood_ca.h>

#define MOST_NAMES 64

static ood_ca_str text(const char *from)
{
    ood_ca_str view = {from, strlen(from)};
    return view;
}

/* Says what went wrong and frees it. */
static int failed(ood_ca_error *error)
{
    size_t hint_len;
    const char *hint = ood_ca_error_hint(error, &hint_len);
    fprintf(stderr, "error: %s\n", ood_ca_error_message(error, NULL));
    if (hint_len > 0) {
        fprintf(stderr, "hint: %s\n", hint);
    }
    ood_ca_error_free(error);
    return 1;
}

static int is_address(const char *name)
{
    return strchr(name, ':') != NULL || strspn(name, "0123456789.") == strlen(name);
}

static int show(const ood_ca_issued *issued)
{
    ood_ca_issued_view view = {sizeof view, {0}, {0}, {0}, 0, 0, NULL, 0};
    ood_ca_certificate_view certificate;
    ood_ca_error *error;
    char until[32];
    time_t end;
    size_t i;

    memset(&certificate, 0, sizeof certificate);
    certificate.size = sizeof certificate;
    if (ood_ca_issued_get(issued, &view, &error) != OOD_CA_STATUS_OK ||
        ood_ca_issued_certificate(issued, &certificate, &error) != OOD_CA_STATUS_OK) {
        return failed(error);
    }
    fputs(view.certificate.data, stdout);
    for (i = 0; i < view.notices_len; i++) {
        fprintf(stderr, "warning: %s\n", view.notices[i].data);
    }
    end = (time_t)certificate.not_after;
    strftime(until, sizeof until, "%Y-%m-%dT%H:%M:%SZ", gmtime(&end));
    fprintf(stderr, "serial %s, valid until %s\n", certificate.serial.data, until);
    return 0;
}

int main(int argc, char **argv)
{
    ood_ca_str hosts[MOST_NAMES], ips[MOST_NAMES];
    ood_ca_open_options where;
    ood_ca_issue_options want;
    ood_ca_authority *authority = NULL;
    ood_ca_issued *issued = NULL;
    ood_ca_error *error = NULL;
    int i, status = 0;

    memset(&where, 0, sizeof where);
    where.size = sizeof where;
    memset(&want, 0, sizeof want);
    want.size = sizeof want;
    want.hosts = hosts;
    want.ips = ips;
    for (i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--pki-dir") == 0 && i + 1 < argc) {
            where.pki_dir = text(argv[++i]);
        } else if (want.hosts_len == MOST_NAMES || want.ips_len == MOST_NAMES) {
            fputs("error: too many names\n", stderr);
            return 2;
        } else if (is_address(argv[i])) {
            ips[want.ips_len++] = text(argv[i]);
        } else {
            hosts[want.hosts_len++] = text(argv[i]);
        }
    }
    if (want.hosts_len == 0 && want.ips_len == 0) {
        want.flags = OOD_CA_ISSUE_THIS_NODE;
    }

    if (ood_ca_authority_ensure(&where, &authority, &error) != OOD_CA_STATUS_OK ||
        ood_ca_issue(authority, &want, &issued, &error) != OOD_CA_STATUS_OK) {
        status = failed(error);
    } else {
        status = show(issued);
    }
    ood_ca_issued_free(issued);
    ood_ca_authority_free(authority);
    return status;
}
