/*-------------------------------------------------------------------------
 *
 * discrepancy.c
 *	  What people say about discrepancies: class, owner, cause, decision;
 *	  closed by hand, or accepted by a rule.
 *
 * Verification finds, reopens and closes them (verify/discrepancy.c).  Here
 * nothing is found and nothing is compared.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "trust/trust.h"
#include "util/name.h"
#include "util/spi.h"
#include "util/stated.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "verify/discrepancy.h"

/*
 * require_discrepancies raises unless all ids are discrepancies of the
 * migration, naming those that are not.
 */
static void
require_discrepancies(RehomeMigration *migration, const char *ids)
{
	char	   *unknown;

	unknown = rehome_spi_value("SELECT string_agg(i::text, ', ' ORDER BY i) FROM unnest($2::bigint[]) AS i"
							   " WHERE NOT EXISTS (SELECT FROM rehome.discrepancy d WHERE d.id = i AND d.migration = $1::name)",
							   "tt", migration->name, ids);
	if (unknown != NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("discrepancies of migration \"%s\" do not exist: %s", migration->name, unknown),
				errhint("SELECT id, target, key, kind FROM rehome.discrepancy WHERE migration = %s;",
						quote_literal_cstr(migration->name)));
}

PG_FUNCTION_INFO_V1(rehome_classify);

/*
 * rehome_classify(migration name, discrepancies bigint[], class, owner, cause,
 * decision, fix text, blocking boolean)
 */
Datum
rehome_classify(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	char	   *ids = rehome_trust_array(fcinfo, 1, "the discrepancies");
	char	   *class = REHOME_ARG_TEXT(2);
	char	   *blocking = PG_ARGISNULL(7) ? NULL : PG_GETARG_BOOL(7) ? "t" : "f";
	RehomeRows *rows;

	if (PG_ARGISNULL(2) && PG_ARGISNULL(3) && PG_ARGISNULL(4) && PG_ARGISNULL(5) && PG_ARGISNULL(6) &&
		PG_ARGISNULL(7))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("nothing is said about the discrepancies"),
				errhint("Give at least one of class, owner, cause, decision, fix and blocking."));
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	if (class != NULL && !rehome_bool(rehome_spi_value("SELECT $1 IN ('mapping defect', 'transformation bug', 'source-data problem',"
													   " 'sync lag', 'test-harness error', 'accepted variance')", "t", class)))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("unknown class of discrepancy \"%s\"", class),
				errhint("Classes are mapping defect, transformation bug, source-data problem, sync lag, test-harness error and accepted variance."));
	/* what does not block lets a cutover pass */
	if (blocking != NULL)
		rehome_require_owner(&call, migration);
	require_discrepancies(migration, ids);
	rows = rehome_spi("WITH said AS ("
					  " UPDATE rehome.discrepancy SET class = coalesce($2, class), owner = coalesce($3, owner),"
					  " cause = coalesce($4, cause), decision = coalesce($5, decision), fix = coalesce($6, fix),"
					  " blocking = coalesce($7::boolean, blocking) WHERE id = ANY ($1::bigint[]) RETURNING id)"
					  " INSERT INTO rehome.discrepancy_history (discrepancy, who, what, detail)"
					  " SELECT id, $8::name, 'classified', jsonb_strip_nulls(jsonb_build_object('class', $2, 'owner', $3,"
					  " 'cause', $4, 'decision', $5, 'fix', $6, 'blocking', $7::boolean)) FROM said", "tttttttt",
					  ids, class, REHOME_ARG_TEXT(3), REHOME_ARG_TEXT(4), REHOME_ARG_TEXT(5), REHOME_ARG_TEXT(6), blocking, rehome_actor());
	rehome_call_end(&call);
	PG_RETURN_INT32((int32) rows->processed);
}

PG_FUNCTION_INFO_V1(rehome_resolve);

/*
 * rehome_resolve(migration name, discrepancies bigint[], decision text, fix text)
 */
Datum
rehome_resolve(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	char	   *ids = rehome_trust_array(fcinfo, 1, "the discrepancies");
	RehomeRows *rows;

	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	require_discrepancies(migration, ids);
	rows = rehome_spi("WITH closed AS ("
					  " UPDATE rehome.discrepancy SET resolved_at = clock_timestamp(), decision = coalesce($2, decision),"
					  " fix = coalesce($3, fix) WHERE id = ANY ($1::bigint[]) AND resolved_at IS NULL RETURNING id)"
					  " INSERT INTO rehome.discrepancy_history (discrepancy, who, what, detail)"
					  " SELECT id, $4::name, 'resolved', jsonb_strip_nulls(jsonb_build_object('decision', $2, 'fix', $3)) FROM closed",
					  "tttt", ids, REHOME_ARG_TEXT(2), REHOME_ARG_TEXT(3), rehome_actor());
	if (rows->processed == 0)
		ereport(NOTICE, errmsg("all of them are resolved already"));
	rehome_call_end(&call);
	PG_RETURN_INT32((int32) rows->processed);
}

PG_FUNCTION_INFO_V1(rehome_accept);

/*
 * rehome_accept(migration name, target regclass, reason text, columns name[],
 * predicate text)
 */
Datum
rehome_accept(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	RehomeTableMap *map;
	char	   *reason = rehome_trust_required(fcinfo, 2, "a reason");
	char	   *columns = PG_ARGISNULL(3) ? NULL : rehome_trust_array(fcinfo, 3, "a column");
	char	   *predicate = REHOME_ARG_TEXT(4);
	char	   *unknown;
	int			id;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the target must be given"));
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	map = rehome_table_map_of(migration, PG_GETARG_OID(1));
	unknown = rehome_spi_value("SELECT string_agg(quote_ident(c), ', ' ORDER BY c) FROM unnest($2::name[]) AS c"
							   " WHERE NOT EXISTS (SELECT FROM rehome.column_map m WHERE m.table_map_id = $1"
							   " AND m.\"column\" = c AND m.kind <> 'skip')", "it", map->id, columns);
	if (unknown != NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_COLUMN),
				errmsg("columns of target %s are not mapped: %s", rehome_relation_name(map->target), unknown));
	if (predicate != NULL)
		rehome_stated_require_expression(predicate, "the predicate");
	id = rehome_int(rehome_spi_value("INSERT INTO rehome.acceptance (migration_id, target, columns, predicate, search_path, reason, accepted_by)"
									 " VALUES ($1, $2, $3::name[], $4, $5, $6, $7::name) RETURNING id", "iottttt",
									 migration->id, map->target, columns, predicate, rehome_stated_path(&call),
									 reason, rehome_actor()));
	rehome_acceptances_apply(migration, map->target, id);
	rehome_event(migration->name, NULL, "accepted",
				 psprintf("differences of %s are accepted: %s", rehome_relation_name(map->target), reason),
				 psprintf("{\"acceptance\": %d}", id));
	rehome_call_end(&call);
	PG_RETURN_INT32(id);
}

PG_FUNCTION_INFO_V1(rehome_revoke_acceptance);

/*
 * rehome_revoke_acceptance(migration name, acceptance int)
 */
Datum
rehome_revoke_acceptance(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	RehomeRows *rows;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the acceptance must be given"));
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	rows = rehome_spi("DELETE FROM rehome.acceptance WHERE migration_id = $1 AND id = $2 RETURNING target::oid, reason",
					  "ii", migration->id, PG_GETARG_INT32(1));
	if (rows->n == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("acceptance %d of migration \"%s\" does not exist", PG_GETARG_INT32(1), migration->name));
	rehome_acceptances_apply(migration, (Oid) rehome_int64(rows->value[0][0]), 0);
	rehome_event(migration->name, NULL, "accepted",
				 psprintf("an acceptance was revoked: %s", rows->value[0][1]),
				 psprintf("{\"revoked\": %d}", PG_GETARG_INT32(1)));
	rehome_call_end(&call);
	PG_RETURN_VOID();
}
