/*-------------------------------------------------------------------------
 *
 * owner.c
 *	  Giving a migration to another role.
 *
 * The owner's rights are those with which rows are read and written here, and
 * the owner's user mapping leads to the source.  A role that leaves takes its
 * mapping with it, and nobody else's rights would do; so when its tables are
 * given to another one, its migrations have to be, too.
 *
 * The work locks of the slices are held, so that no batch is under way that was
 * begun as another.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/define.h"
#include "catalog/migration.h"
#include "compat.h"
#include "derive/derive.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "remote/connection.h"
#include "util/call.h"
#include "util/problems.h"
#include "util/spi.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/*
 * check_targets notes which tables the role does not own.
 */
static void
check_targets(RehomeProblems *problems, List *maps, Oid role)
{
	ListCell   *lc;

	foreach(lc, maps)
	{
		Oid			target = ((RehomeTableMap *) lfirst(lc))->target;
		const char *name;

		if (get_rel_name(target) == NULL || rehome_owns_relation(target, role))
			continue;
		name = rehome_relation_name(target);
		rehome_problem(problems, ERRCODE_INSUFFICIENT_PRIVILEGE,
					   psprintf("ALTER TABLE %s OWNER TO %s;", name, quote_identifier(GetUserNameFromId(role, false))),
					   "It does not own table %s.", name);
	}
}

PG_FUNCTION_INFO_V1(rehome_set_owner);

/*
 * rehome_set_owner(migration name, owner regrole)
 */
Datum
rehome_set_owner(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	char	   *name = rehome_required_name(fcinfo, 0, "the migration's name");
	Oid			role = PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1);
	char	   *role_name = OidIsValid(role) ? GetUserNameFromId(role, true) : NULL;
	RehomeMigration *migration;
	RehomeProblems problems;
	ListCell   *lc;

	if (role_name == NULL)
		ereport(ERROR,
				errcode(OidIsValid(role) ? ERRCODE_UNDEFINED_OBJECT : ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("the new owner must be a role"));
	rehome_call_begin(&call, fcinfo);
	migration = rehome_migration_get(name);
	rehome_require_owner(&call, migration);
	if (!has_privs_of_role(call.caller, role))
		ereport(ERROR,
				errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("must be member of role \"%s\"", role_name),
				errdetail("The rules of migration \"%s\" would run with its rights.", name));
	rehome_problems_init(&problems);
	if (OidIsValid(migration->serverid))
	{
		ForeignServer *server = GetForeignServer(migration->serverid);

		if (!rehome_may_use_server(server->serverid, role))
			rehome_problem(&problems, ERRCODE_INSUFFICIENT_PRIVILEGE,
						   psprintf("GRANT USAGE ON FOREIGN SERVER %s TO %s;", quote_identifier(server->servername), quote_identifier(role_name)),
						   "It may not use server %s.", quote_identifier(server->servername));
	}
	foreach(lc, rehome_slices_get(migration, NULL))
	{
		RehomeSlice *slice = lfirst(lc);

		rehome_slice_work_lock(slice);
		if (rehome_slice_ended(slice))
			continue;
		check_targets(&problems, rehome_table_maps_get(slice), role);
		check_targets(&problems, rehome_derived_maps(slice), role);
		rehome_slice_maps_changed(slice);
	}
	rehome_problems_raise(&problems, "role \"%s\" cannot be the owner of migration \"%s\"", role_name, name);
	if (migration->live && OidIsValid(migration->serverid))
		(void) rehome_user_mapping(role, GetForeignServer(migration->serverid));	/* raises when there is none */
	rehome_spi("UPDATE rehome.migration SET owner = $2::oid::regrole WHERE id = $1", "io", migration->id, role);
	rehome_event(name, NULL, "owner", psprintf("owner is %s", role_name), NULL);
	rehome_call_end(&call);
	PG_RETURN_VOID();
}
