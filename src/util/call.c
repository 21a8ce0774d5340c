/*-------------------------------------------------------------------------
 *
 * call.c
 *	  The frame in which every SQL entry point and every worker runs.
 *
 * A frame connects SPI, pins the settings that change the meaning or the
 * text of values, and makes the owner of schema rehome the current user, so
 * that catalog work needs no privilege of the caller's: what the caller may
 * do was decided by EXECUTE on the function and by the ownership checks of
 * catalog/migration.c.  User data is never touched as that user: apply, copy
 * and verify become the migration's owner for it, with rehome_become().
 *
 * A procedure that is called outside a transaction block may commit in
 * between.  The frame is taken down before the commit and put up again after
 * it, because PostgreSQL records user and settings at transaction start.
 *
 * On error nothing here needs a hand: abort restores user, settings and SPI.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_namespace.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/pquery.h"
#include "util/call.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* Settings pinned in every frame; remote/connect.c pins the same. */
static const struct
{
	const char *name;
	const char *value;
}			pinned[] =
{
	{"search_path", "pg_catalog, pg_temp"},
	{"DateStyle", "ISO, YMD"},
	{"IntervalStyle", "postgres"},
	{"extra_float_digits", "3"},
	{"bytea_output", "hex"},
	{"TimeZone", "UTC"},
	{"row_security", "off"},
	{"xmloption", "content"},
	{"array_nulls", "on"},
	{"lc_monetary", "C"},
	{"lc_numeric", "C"},
	{"lc_time", "C"},
	/* expressions are kept, and compared, as text */
	{"standard_conforming_strings", "on"},
	{"quote_all_identifiers", "off"},
	/* an index is built anew where it was */
	{"default_tablespace", ""},
	/* keys are looked up in tables that are in use, hence in memory */
	{"random_page_cost", "1.1"},
	{"jit", "off"},
};

/*
 * How the transaction that a frame is part of shall be committed; settings
 * made inside the frame end with it.
 */
static enum
{
	COMMIT_AS_SET, COMMIT_DURABLY, COMMIT_LAZILY
}			commit_mode = COMMIT_AS_SET;

/*
 * rehome_commit_durably sees to it that the transaction will be on disk when
 * it is committed: authority must not move back in a crash.
 */
void
rehome_commit_durably(void)
{
	commit_mode = COMMIT_DURABLY;
}

/*
 * rehome_commit_lazily lets the transaction commit without waiting for disk.
 */
void
rehome_commit_lazily(void)
{
	commit_mode = COMMIT_LAZILY;
}

/*
 * rehome_catalog_owner returns the owner of schema rehome.
 */
Oid
rehome_catalog_owner(void)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACENAME, CStringGetDatum("rehome"));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_SCHEMA),
				errmsg("schema \"rehome\" does not exist"),
				errhint("CREATE EXTENSION pg_rehome CASCADE;"));
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

static void
pin_settings(void)
{
	for (int i = 0; i < lengthof(pinned); i++)
		(void) set_config_option(pinned[i].name, pinned[i].value,
								 PGC_SUSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

static void
put_up(RehomeCall *call)
{
	/* SPI wants to find one, in a worker, or after a commit */
	call->pushed_snapshot = !ActiveSnapshotSet();
	if (call->pushed_snapshot)
		PushActiveSnapshot(GetTransactionSnapshot());
	GetUserIdAndSecContext(&call->saved_user, &call->saved_context);
	call->guc_level = NewGUCNestLevel();
	pin_settings();
	SetUserIdAndSecContext(rehome_catalog_owner(),
						   call->saved_context | SECURITY_LOCAL_USERID_CHANGE);
}

static void
take_down(RehomeCall *call)
{
	if (call->pushed_snapshot)
		PopActiveSnapshot();
	SetUserIdAndSecContext(call->saved_user, call->saved_context);
	AtEOXact_GUC(true, call->guc_level);

	if (commit_mode == COMMIT_LAZILY ||
		(commit_mode == COMMIT_DURABLY && synchronous_commit == SYNCHRONOUS_COMMIT_OFF))
		(void) set_config_option("synchronous_commit",
								 commit_mode == COMMIT_LAZILY ? "off" : "local",
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	commit_mode = COMMIT_AS_SET;
}

/*
 * rehome_call_begin opens a frame.  fcinfo is NULL in a worker, which is in
 * a transaction and may always commit.  SPI is connected; the current memory
 * context stays the caller's.
 */
void
rehome_call_begin(RehomeCall *call, FunctionCallInfo fcinfo)
{
	call->outer_commit_mode = commit_mode;
	commit_mode = COMMIT_AS_SET;
	call->context = CurrentMemoryContext;
	call->caller = GetUserId();
	call->wrote_before = TransactionIdIsValid(GetTopTransactionIdIfAny());
	call->search_path = GetConfigOptionByName("search_path", NULL, false);
	if (fcinfo == NULL)
		call->nonatomic = true;
	else
		call->nonatomic = fcinfo->context != NULL &&
			IsA(fcinfo->context, CallContext) &&
			!castNode(CallContext, fcinfo->context)->atomic;

	if (SPI_connect_ext(call->nonatomic ? SPI_OPT_NONATOMIC : 0) != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");

	/*
	 * What is allocated inside the frame must outlive a commit in a
	 * procedure, and reach the caller in a function.
	 */
	MemoryContextSwitchTo(call->context);
	put_up(call);
}

/*
 * rehome_call_commit commits and opens the next transaction; only in a frame
 * that may.
 */
void
rehome_call_commit(RehomeCall *call)
{
	Assert(call->nonatomic);
	take_down(call);
	SPI_commit();
	MemoryContextSwitchTo(call->context);
	put_up(call);
}

/*
 * rehome_call_rest lets go of the frame's snapshot, right after a commit:
 * nothing is read until the next rehome_call_commit().
 */
void
rehome_call_rest(RehomeCall *call)
{
	if (call->pushed_snapshot)
		PopActiveSnapshot();
	call->pushed_snapshot = false;
	InvalidateCatalogSnapshot();
}

/*
 * rehome_call_end closes the frame.
 */
void
rehome_call_end(RehomeCall *call)
{
	take_down(call);
	commit_mode = call->outer_commit_mode;
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");
	MemoryContextSwitchTo(call->context);
}

/*
 * rehome_call_require_nonatomic refuses a procedure that has to commit as it
 * goes when it was called in a transaction block.
 */
void
rehome_call_require_nonatomic(RehomeCall *call, const char *what)
{
	if (!call->nonatomic)
		ereport(ERROR,
				errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				errmsg("%s cannot run inside a transaction block", what),
				errhint("CALL it on its own, outside BEGIN and not from a function."));
}

/*
 * rehome_call_require_unwritten refuses a call that would carry the caller's
 * uncommitted writes to the other side.
 */
void
rehome_call_require_unwritten(RehomeCall *call, const char *what)
{
	if (call->wrote_before)
		ereport(ERROR,
				errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				errmsg("%s cannot run in a transaction that has written already", what),
				errdetail("The target has authority: what is not committed must not be brought back to the source."),
				errhint("COMMIT first."));
}

/*
 * rehome_call_commit_written commits what the caller has written, if the call may:
 * the other side is not to get what might not be committed here after all.
 */
void
rehome_call_commit_written(RehomeCall *call)
{
	if (call->nonatomic && call->wrote_before)
		rehome_call_commit(call);
}

/*
 * rehome_become makes role the current user, unable to become anybody else
 * or to leave things behind for later, until rehome_become_self(): what its
 * functions set is gone then, as after CREATE INDEX or ANALYZE.
 */
void
rehome_become(RehomeAs *as, Oid role)
{
	GetUserIdAndSecContext(&as->user, &as->context);
	as->guc_level = NewGUCNestLevel();
	SetUserIdAndSecContext(role, as->context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
}

/*
 * rehome_become_catalog_owner does it for catalog work amid that of another
 * role, whatever that one's functions have set.
 */
void
rehome_become_catalog_owner(RehomeAs *as)
{
	rehome_become(as, rehome_catalog_owner());
	pin_settings();
}

void
rehome_become_self(RehomeAs *as)
{
	AtEOXact_GUC(false, as->guc_level);
	SetUserIdAndSecContext(as->user, as->context);
}
