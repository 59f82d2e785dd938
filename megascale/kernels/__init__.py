"""Operations that know no model."""
