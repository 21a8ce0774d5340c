/*-------------------------------------------------------------------------
 *
 * retry.c
 *	  What a DBA does about rows in quarantine: retry() and
 *	  accept_quarantine().
 *
 * A retry begins with a batch, and reads the quarantined rows in the same
 * source transaction: what it brings is of the very snapshot that becomes the
 * position.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply/apply.h"
#include "capture/capture.h"
#include "derive/derive.h"
#include "errors.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/*
 * retry_slice does one slice's tables, or one of them, and puts a row each.
 */
static void
retry_slice(RehomeSlice *slice, Oid target, const char *rule, ReturnSetInfo *rsinfo)
{
	static const char *const doing = "its rows were read again";
	RehomeConn *conn;
	RehomeBatch batch;
	List	   *maps;
	ListCell   *lc;

	rehome_slice_work_lock(slice);
	rehome_slice_require(slice, "retry rows of", REHOME_SYNCING, REHOME_SYNCING);
	rehome_slice_require_running(slice);
	maps = rehome_table_maps_require(slice);
	conn = rehome_slice_connect(slice, "retry");
	rehome_forward_batch(conn, slice, maps, true, NIL, &batch);
	CommandCounterIncrement();
	foreach(lc, maps)
	{
		RehomeTableMap *map = lfirst(lc);
		Datum		values[3];
		bool		nulls[3] = {false};
		int64		asked;
		int64		refused;

		if (map->paused || (OidIsValid(target) && map->target != target))
			continue;
		rehome_forward_hold(conn, map, doing);
		rehome_forward_retry(conn, slice, map, rule, &asked, &refused);
		rehome_forward_let_go(conn, map, doing);
		values[0] = ObjectIdGetDatum(map->target);
		values[1] = Int64GetDatum(asked);
		values[2] = Int64GetDatum(refused);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	rehome_derive(slice, false);
	rehome_conn_commit(conn);
	rehome_conn_close(conn);
}

PG_FUNCTION_INFO_V1(rehome_retry);

/*
 * rehome_retry(migration name, target regclass, rule text)
 */
Datum
rehome_retry(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	Oid			target = PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1);
	char	   *rule = REHOME_ARG_TEXT(2);
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	if (!migration->live)
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("the source of migration \"%s\" can only be copied from", migration->name));
	if (OidIsValid(target))
		retry_slice(rehome_slice_by_id(rehome_table_map_of(migration, target)->slice_id), target, rule,
					(ReturnSetInfo *) fcinfo->resultinfo);
	else
		foreach(lc, rehome_slices_moved(migration, NULL))
			retry_slice(lfirst(lc), InvalidOid, rule, (ReturnSetInfo *) fcinfo->resultinfo);
	rehome_call_end(&call);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(rehome_accept_quarantine);

/*
 * rehome_accept_quarantine(migration name, reason text, target regclass, rule text)
 */
Datum
rehome_accept_quarantine(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	RehomeMigration *migration;
	char	   *reason = REHOME_ARG_TEXT(1);
	char	   *rule = REHOME_ARG_TEXT(3);
	int64		n;

	if (reason == NULL || strspn(reason, " \t\r\n") == strlen(reason))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("rows are given up for a reason"),
				errhint("Say in one sentence why the target can go without them."));
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_argument(fcinfo);
	rehome_require_owner(&call, migration);
	n = (int64) rehome_spi("UPDATE rehome.quarantine SET accepted = true, accepted_by = $4::name,"
						   " accepted_at = clock_timestamp(), accepted_reason = $5"
						   " WHERE migration = $1::name AND ($2 = 0 OR target = $2) AND ($3 IS NULL OR rule = $3) AND NOT accepted",
						   "tottt", migration->name, PG_ARGISNULL(2) ? InvalidOid : PG_GETARG_OID(2), rule,
						   GetUserNameFromId(call.caller, false), reason)->processed;
	rehome_event(migration->name, NULL, "accepted",
				 psprintf(INT64_FORMAT " quarantined rows given up: %s", n, reason), NULL);
	rehome_call_end(&call);
	PG_RETURN_INT64(n);
}
