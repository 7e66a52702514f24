from oracle_detector import shapes as shapes
