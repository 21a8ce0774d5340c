/*-------------------------------------------------------------------------
 *
 * definition.c
 *	  A migration's definition as one jsonb, and the hash of its rules.
 *
 * The text of a jsonb has one order of keys, and lists keep the order of
 * definition, so the same definition gives the same text everywhere: it can
 * be kept under version control, compared, and hashed.  The hash of a slice's
 * rules goes into the events of its copies, verifications and cutovers, which
 * so tell by which rules the rows were made.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/definition.h"
#include "catalog/sql/definition.sql.h"
#include "miscadmin.h"
#include "util/spi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

/*
 * tell_dropped tells which tables of a slice that has ended are left out.
 */
static void
tell_dropped(RehomeSlice *slice)
{
	ListCell   *lc;

	foreach(lc, rehome_table_maps_get(slice))
	{
		RehomeTableMap *map = lfirst(lc);

		if (!rehome_table_map_exists(map))
			ereport(NOTICE,
					errmsg("a table of slice \"%s\" of migration \"%s\", which is %s, is left out",
						   slice->name, slice->migration->name, rehome_state_name(slice->state)),
					errdetail("Source %s, target %s: one was dropped.", rehome_relation_name(map->source),
							  rehome_relation_name(map->target)));
	}
}

/*
 * rehome_definition returns the text of a migration's definition.  Raises
 * when a relation of it was dropped, if its slice has not ended.
 */
char *
rehome_definition(RehomeMigration *migration)
{
	ListCell   *lc;

	foreach(lc, rehome_slices_get(migration, NULL))
		if (rehome_slice_ended(lfirst(lc)))
			tell_dropped(lfirst(lc));
		else
			(void) rehome_table_maps_require(lfirst(lc));
	return rehome_spi_value(sql_definition, "it", migration->id, (char *) NULL);
}

/*
 * rehome_rules_hash returns the SHA-256, in hexadecimal, of the text of a
 * slice's tables and derived data in its definition.
 */
char *
rehome_rules_hash(RehomeSlice *slice)
{
	return rehome_spi_value("SELECT encode(sha256(convert_to((($1::jsonb #> '{slices,0}') - 'slice')::text, 'UTF8')), 'hex')",
							"t", rehome_spi_value(sql_definition, "it", slice->migration->id, slice->name));
}

/*
 * rehome_rules_detail adds the hash of a slice's rules to the detail of an
 * event: the text of a jsonb object, or NULL.
 */
char *
rehome_rules_detail(RehomeSlice *slice, const char *detail)
{
	return rehome_spi_value("SELECT coalesce($1::jsonb, '{}') || jsonb_build_object('rules', $2)",
							"tt", detail, rehome_rules_hash(slice));
}

PG_FUNCTION_INFO_V1(rehome_export_migration);

/*
 * rehome_export_migration(migration name)
 */
Datum
rehome_export_migration(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	char	   *text;

	rehome_call_begin(&call, fcinfo);
	text = rehome_definition(rehome_migration_argument(fcinfo));
	rehome_call_end(&call);
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
}

PG_FUNCTION_INFO_V1(rehome_definition_hash);

/*
 * rehome_definition_hash(migration name, slice name)
 */
Datum
rehome_definition_hash(PG_FUNCTION_ARGS)
{
	RehomeCall	call;
	char	   *hash;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("migration and slice must be given"));
	rehome_call_begin(&call, fcinfo);
	hash = rehome_rules_hash(linitial(rehome_slices_get(rehome_migration_get(NameStr(*PG_GETARG_NAME(0))),
														NameStr(*PG_GETARG_NAME(1)))));
	rehome_call_end(&call);
	PG_RETURN_TEXT_P(cstring_to_text(hash));
}
