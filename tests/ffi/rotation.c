/*
 * An open handle follows what other programs do to the authority's files.
 *
 *   rotation HOME OOD_CA     OOD_CA is run by the shell with what is to be done
 */
#include "check.h"

static ood_ca_authority *authority;
static const char *ood_ca;

static void run(const char *what)
{
    char line[8192];
    snprintf(line, sizeof line, "%s %s >/dev/null", ood_ca, what);
    CHECK(system(line) == 0);
}

/* Issues a leaf that verifies against what the handle trusts. */
static ood_ca_issued *issue(void)
{
    ood_ca_issue_options want = issue_options(NULL);
    ood_ca_verify_options ask;
    ood_ca_issued *issued;
    want.flags = OOD_CA_ISSUE_ANY_HOST;
    GOOD(ood_ca_issue(authority, &want, &issued, &error));
    ask = verify_options(issued_view(issued).certificate, OOD_CA_PURPOSE_SERVER);
    GOOD(ood_ca_verify(authority, &ask, NULL, &error));
    return issued;
}

static uint32_t phase(size_t *trusted)
{
    ood_ca_info_view view;
    ood_ca_info *info;
    view.size = sizeof view;
    GOOD(ood_ca_authority_info(authority, &info, &error));
    GOOD(ood_ca_info_get(info, &view, &error));
    ood_ca_info_free(info);
    *trusted = view.trusted_len;
    return view.phase;
}

int main(int argc, char **argv)
{
    static char pki_dir[4096], away[4096], config[4096];
    ood_ca_open_options where;
    ood_ca_issue_options want = issue_options(NULL);
    ood_ca_verify_options ask;
    ood_ca_issued *first, *prepared, *activated, *replaced, *none;
    size_t trusted;

    CHECK(argc == 3);
    ood_ca = argv[2];
    snprintf(pki_dir, sizeof pki_dir, "%s/.ood/pki", argv[1]);
    snprintf(away, sizeof away, "%s/.ood/away", argv[1]);
    snprintf(config, sizeof config, "%s/ood_ca.yml", argv[1]);
    where = open_options(pki_dir, config);
    GOOD(ood_ca_authority_ensure(&where, &authority, &error));
    first = issue();

    run("rotate --prepare");
    prepared = issue();
    CHECK(phase(&trusted) == OOD_CA_PHASE_PREPARED && trusted == 2);
    CHECK(same_text(issued_certificate(prepared).issuer, issued_certificate(first).issuer));
    CHECK(issued_view(prepared).trust.len > issued_view(first).trust.len);

    run("rotate --activate --force");
    activated = issue();
    CHECK(phase(&trusted) == OOD_CA_PHASE_ACTIVATED && trusted == 2);
    CHECK(!same_text(issued_certificate(activated).issuer, issued_certificate(first).issuer));
    /* The old one is still trusted. */
    ask = verify_options(issued_view(first).certificate, OOD_CA_PURPOSE_SERVER);
    GOOD(ood_ca_verify(authority, &ask, NULL, &error));

    run("rotate --emergency");
    replaced = issue();
    CHECK(phase(&trusted) == OOD_CA_PHASE_SETTLED && trusted == 1);
    CHECK(!same_text(issued_certificate(replaced).issuer, issued_certificate(activated).issuer));
    BAD(OOD_CA_STATUS_NOT_TRUSTED, "not-trusted", ood_ca_verify(authority, &ask, NULL, &error));

    /* What was issued before still shows what it was. */
    CHECK(issued_view(first).key.len > 0);
    ood_ca_issued_free(first);
    ood_ca_issued_free(prepared);
    ood_ca_issued_free(activated);
    ood_ca_issued_free(replaced);

    /* The directory goes and comes back. */
    want.flags = OOD_CA_ISSUE_ANY_HOST | OOD_CA_ISSUE_IN_MEMORY;
    CHECK(rename(pki_dir, away) == 0);
    BAD(OOD_CA_STATUS_NO_AUTHORITY, "no-authority", ood_ca_issue(authority, &want, &none, &error));
    CHECK(rename(away, pki_dir) == 0);
    ood_ca_issued_free(issue());
    ood_ca_authority_free(authority);
    return done();
}
